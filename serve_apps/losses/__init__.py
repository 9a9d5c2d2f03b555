"""Lost replicas: noticed by the gateways, told in receipts."""
