"""What the diffusion generators share: the noise process, sampling, and tokens for action units."""
