"""The shell's view of the library: arguments in, tables and exit codes out."""
