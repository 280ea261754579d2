"""The `stepclock` command: doctor, sync, runs, tail, export."""
