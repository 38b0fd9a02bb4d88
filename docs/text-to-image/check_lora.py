"""Checks that diffusers draws the same latents with an adapter of `train` as this program does.

    flowdppo-wgpu sample --model DIR --lora RUN/adapter --prompt 'a red fox' --weights f32 --steps 4 \\
        --save-tensors x.safetensors --trajectory
    python3 docs/text-to-image/check_lora.py DIR RUN/adapter x.safetensors 'a red fox'

Options after the prompt: the guidance scale (default 4.5). Needs torch, diffusers, transformers and peft.
"""

import sys

import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file

folder, adapter, tensors, prompt = sys.argv[1:5]
guidance_scale = float(sys.argv[5]) if len(sys.argv) > 5 else 4.5
trajectory = load_file(tensors)["trajectory"]
steps, start, last = len(trajectory) - 1, trajectory[0], trajectory[-1]

pipeline = StableDiffusion3Pipeline.from_pretrained(folder, torch_dtype=torch.float32)


def draw():
    return pipeline(
        prompt,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        latents=start,
        height=start.shape[-2] * pipeline.vae_scale_factor,
        width=start.shape[-1] * pipeline.vae_scale_factor,
        output_type="latent",
    ).images


def distance(a, b):
    return float((a - b).abs().max() / b.abs().max())


base = draw()
pipeline.load_lora_weights(adapter)
tuned = draw()
print(f"the adapter changes the latents by {distance(tuned, base):.2e} of the largest")
print(f"this program and diffusers differ by {distance(last, tuned):.2e}")
assert distance(last, tuned) < 1e-3 < distance(tuned, base)
