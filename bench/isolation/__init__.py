"""Whether a tenant that sends nothing but trouble is felt by others."""
