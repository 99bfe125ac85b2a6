"""DRFGD: disentangled representations and attack-tolerant generation, used in training only."""
