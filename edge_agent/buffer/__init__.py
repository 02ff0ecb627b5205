"""`otel-agent buffer`: what the ring holds, whether it is sound, and a way out of it and in."""
