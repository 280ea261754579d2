"""What a tenant may send and hold: points, new series, bytes."""
