//! Messages about unusable devices and bad environment variables.

use super::bad_input::{case, check, nothing};

#[test]
fn variables_of_the_environment() {
    const TRAIN: &str = "-q train --config train.toml --out run";
    type Variables = &'static [(&'static str, &'static str)];
    let cases: [(Variables, &'static [&'static str]); 5] = [
        (&[("FLOWDPPO_LIMITS", "webgpu-defualt")], &["FLOWDPPO_LIMITS=webgpu-defualt", "webgpu-default or adapter"]),
        (&[("FLOWDPPO_CHECKED", "yes")], &["FLOWDPPO_CHECKED=yes", "0 or 1"]),
        (&[("FLOWDPPO_NO_SUBGROUPS", "true")], &["FLOWDPPO_NO_SUBGROUPS=true", "0 or 1"]),
        (&[("FLOWDPPO_MEMORY_LIMIT_MIB", "1 GiB")], &["FLOWDPPO_MEMORY_LIMIT_MIB=1 GiB", "a whole number of MiB"]),
        (&[("FLOWDPPO_KERNEL", "matmul_tield")], &["FLOWDPPO_KERNEL=matmul_tield", "matmul_register, matmul_tiled"]),
    ];
    for (environment, says) in cases {
        case(nothing, TRAIN, 2, says).with(environment).check();
    }
}

#[test]
fn devices() {
    const NO_DRIVER: &[(&str, &str)] = &[("VK_DRIVER_FILES", "/nonexistent"), ("WGPU_BACKEND", "vulkan")];
    const NO_MEMORY: &[(&str, &str)] = &[("FLOWDPPO_MEMORY_LIMIT_MIB", "1")];
    const NONE_AT_ALL: &[(&str, &str)] = &[("FLOWDPPO_MEMORY_LIMIT_MIB", "0")];
    const MORE: &[&str] = &["MiB of device memory", "lower"];
    check(&[
        case(nothing, "devices", 3, &["no Vulkan, Metal or DX12 adapter", "driver"]).with(NO_DRIVER),
        case(nothing, "train --config train.toml", 3, &["no Vulkan, Metal or DX12 adapter"]).with(NO_DRIVER),
        case(nothing, "pretrain --config pretrain.toml", 3, &["no Vulkan, Metal or DX12 adapter"]).with(NO_DRIVER),
        case(nothing, "sample --model base.safetensors", 3, &["no Vulkan, Metal or DX12 adapter"]).with(NO_DRIVER),
        case(nothing, "devices --device no-such-device", 3, &["`no-such-device`", "0 = "]),
        case(nothing, "train --config train.toml --device 99", 3, &["`99`", "0 = "]),
        case(nothing, "train --config train.toml --set run.device=no-such-device", 3, &["`no-such-device`"]),
        case(nothing, "train --config train.toml --set rollout.group_size=320", 3, MORE).with(NO_MEMORY),
        case(
            nothing,
            "pretrain --config pretrain.toml --set pretrain.batch_size=1024 --set pretrain.micro_batch=1024",
            3,
            MORE,
        )
        .with(NO_MEMORY),
        case(nothing, "fit-classifier --config fit.toml", 3, MORE).with(NONE_AT_ALL),
        case(nothing, "sample --model base.safetensors", 3, MORE).with(NONE_AT_ALL),
        case(nothing, "eval --config train.toml --model base.safetensors", 3, MORE).with(NONE_AT_ALL),
    ]);
}
