"""From a configuration to records and verdicts."""
