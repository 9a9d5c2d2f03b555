"""LoRA adapters of a base, served by the base's own replicas as versions of their own."""
