"""The store on InfluxDB 2: what implements `schemas.store`, and the server's administration."""
