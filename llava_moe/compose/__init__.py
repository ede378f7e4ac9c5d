"""LoRAs trained apart, put together: what their runs stand on, merges without training, and which is best."""
