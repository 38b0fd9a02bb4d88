# The common tasks; `make` without arguments lists them.
.DEFAULT_GOAL := help
.PHONY: help demo shapes shapes-base web test lint dist evidence gpu-report setup

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## set up, build, and tune the built-in model (prints base and tuned model side by side)
	cargo run --release -- train

shapes: setup ## set up, build, and tune the built-in text-to-image model of coloured shapes
	cargo run --release -- train --config builtin:shapes

shapes-base: setup ## repeat the training of the built-in model of coloured shapes (three hours without a GPU)
	cargo build --release
	target/release/flowdppo-wgpu pretrain --config configs/shapes/pretrain.toml
	target/release/flowdppo-wgpu pretrain --config configs/shapes/pretrain-more.toml
	target/release/flowdppo-wgpu export --format words --half runs/shapes-pretrain-more runs/shapes-base

web: ## make the page that tunes models in a browser, in target/page, and build the program that serves it
	cargo build --release
	.ci/web

test: setup ## set up, then run all tests
	cargo test --release --features onnx

lint: ## check formatting and run clippy, with warnings as errors
	cargo fmt --all --check
	cargo clippy --release --all-targets --features onnx -- -D warnings
	cargo clippy --release --workspace --all-targets -- -D warnings
	cargo clippy --release --lib --no-default-features -- -D warnings

dist: ## package a release for this platform in target/dist
	.ci/dist

evidence: setup ## all runs behind EVIDENCE.md, its tables and figures (three hours without a GPU; continues if interrupted)
	.ci/evidence

gpu-report: ## examine this machine's GPU and write target/gpu-report.md and .json, to post (at most nine minutes)
	cargo run --release -- doctor --force --report target/gpu-report

setup: ## install Mesa's Vulkan driver if there is none (UPGRADE=1: a newer one on Debian 12)
	@UPGRADE=$(UPGRADE) .ci/install-driver
