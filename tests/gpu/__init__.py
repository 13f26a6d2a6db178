"""What only a real GPU shows: NVML's own answers, a real CUDA process, the real cuda-checkpoint."""
