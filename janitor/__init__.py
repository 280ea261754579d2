"""The janitor: of a resumed run one curve by step, of a run that says no more a last state."""
