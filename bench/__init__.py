"""The benchmark: one program, one report. ``python -m bench --help`` names its parts."""
