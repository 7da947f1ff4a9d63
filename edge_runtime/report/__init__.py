"""Records made readable: terminal tables, markdown, CSV, JSON. Words and layout only."""
