"""Tenants, their API keys, and the token buckets that gateways share."""
