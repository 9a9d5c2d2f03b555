"""From a published version to its rollout: deployed beside the stable one, begun, waited for."""
