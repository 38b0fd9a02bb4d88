//! Compiles the kernels that GPUs run with Mesa's compiler for AMD GPUs, and prints registers, spills, memory, occupancy
//! and instructions of each. It needs Mesa's driver `radv`, but no GPU.
//!
//! Exit codes: 0, 1 if `--check` found a kernel that does not fit into registers or something failed, 2 if the arguments
//! are wrong, and 3 if this machine lacks the driver.

mod layers;
mod radv;

use std::process::ExitCode;

use clap::Parser;
use flowdppo_wgpu::gpu::shader;

use radv::{Compiler, Problem, Statistics};

/// Prints what the kernels that GPUs run need on AMD's, without one.
#[derive(Debug, Parser)]
struct Arguments {
    /// A family of GPUs: polaris10 and vega10 are GCN, navi10 is RDNA, navi21 RDNA2, navi31 RDNA3, gfx1201 RDNA4. May be
    /// repeated.
    // The driver aborts the process if it does not know a name.
    #[arg(long, default_values = ["navi21", "navi31"],
        value_parser = ["polaris10", "vega10", "navi10", "navi21", "navi31", "gfx1201"])]
    family: Vec<String>,
    /// Only kernels whose name contains this.
    #[arg(default_value = "")]
    name: String,
    /// Fail if a kernel spills vector registers or needs scratch memory.
    #[arg(long)]
    check: bool,
}

/// Columns of the table, by the names that the driver has for them.
const COLUMNS: [(&str, &str); 11] = [
    ("VGPRs", "VGPRs"),
    ("SGPRs", "SGPRs"),
    (SPILLED, "spilled VGPRs"),
    ("Spilled SGPRs", "spilled SGPRs"),
    (SCRATCH, "scratch"),
    ("LDS size", "LDS"),
    ("Subgroups per SIMD", "subgroups/SIMD"),
    ("Instructions", "instructions"),
    ("VALU", "VALU"),
    ("VMEM", "VMEM"),
    ("SMEM", "SMEM"),
];

const SPILLED: &str = "Spilled VGPRs";
const SCRATCH: &str = "Scratch size";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(spilling) if spilling.is_empty() || !arguments.check => ExitCode::SUCCESS,
        Ok(spilling) => {
            eprintln!("these kernels do not fit into registers:\n{}", spilling.join("\n"));
            ExitCode::from(1)
        }
        Err(Problem::Failed(message)) => {
            eprintln!("{message}");
            ExitCode::from(1)
        }
        Err(Problem::NoDriver(message)) => {
            eprintln!("{message}");
            ExitCode::from(3)
        }
    }
}

/// Prints the tables; returns the kernels that spill.
fn run(arguments: &Arguments) -> Result<Vec<String>, Problem> {
    let manifest = radv::manifest().ok_or_else(|| {
        let message = "Mesa's driver for AMD GPUs is not installed: install it (Debian: mesa-vulkan-drivers)";
        Problem::NoDriver(message.into())
    })?;
    let kernels: Vec<_> = layers::kernels().into_iter().filter(|(name, _)| name.contains(&arguments.name)).collect();
    if kernels.is_empty() {
        return Err(Problem::Failed(format!("no kernel has `{}` in its name", arguments.name)));
    }
    let mut spilling = Vec::new();
    for family in &arguments.family {
        // SAFETY: this program has one thread. The driver reads them when it is opened.
        unsafe {
            std::env::set_var("VK_DRIVER_FILES", &manifest);
            // The name for older loaders.
            std::env::set_var("VK_ICD_FILENAMES", &manifest);
            std::env::set_var("RADV_FORCE_FAMILY", family);
        }
        let compiler = Compiler::open(family)?;
        let headings: Vec<&str> = COLUMNS.iter().map(|(_, heading)| *heading).collect();
        println!("| {family} | subgroup | {} |\n|---{}|", headings.join(" | "), "|---".repeat(COLUMNS.len() + 1));
        for (name, kernel) in &kernels {
            if kernel.shader.contains("cooperative") && !compiler.has_matrices {
                println!("| {name} | not on this family |{}", " |".repeat(COLUMNS.len()));
                continue;
            }
            let statistics = compiler.compile(&shader::source(kernel.shader, &kernel.constants))?;
            println!("| {name} | {} | {} |", statistics.subgroup, row(&statistics).join(" | "));
            let [spilled, scratch] = [SPILLED, SCRATCH].map(|number| statistics.get(number));
            let (Some(spilled), Some(scratch)) = (spilled, scratch) else {
                let message = format!("the driver does not report `{SPILLED}` and `{SCRATCH}`, as Mesa 25 does");
                return Err(Problem::NoDriver(message));
            };
            if spilled > 0 || scratch > 0 {
                spilling.push(format!("{family}: {name} ({spilled} spilled VGPRs, {scratch} bytes of scratch)"));
            }
        }
        println!();
    }
    Ok(spilling)
}

fn row(statistics: &Statistics) -> Vec<String> {
    let number = |(name, _): &(&str, &str)| statistics.get(name).map_or("-".into(), |number| number.to_string());
    COLUMNS.iter().map(number).collect()
}
