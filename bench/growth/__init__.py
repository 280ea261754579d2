"""How costs grow with tenants, series, partitions and bodies."""
