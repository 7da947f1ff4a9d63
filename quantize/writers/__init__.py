"""The only code that writes model bytes. A file appears whole under its name, or not at all."""
