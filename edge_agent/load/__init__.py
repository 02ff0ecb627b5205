"""`otel-agent load`: numbered items at a steady rate, and what became of them."""
