"""minirlhf: InstructGPT (Ouyang et al. 2022, arXiv 2203.02155), as small as it can honestly be."""
