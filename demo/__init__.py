"""The demo: real small models trained on real data, every step's metrics through the pipeline."""
