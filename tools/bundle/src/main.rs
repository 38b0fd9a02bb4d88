//! Makes the folder of the web page from the compiled trainer. `make web` calls it.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap::Parser;
use flate2::Compression;
use flate2::write::GzEncoder;
use wasm_bindgen_cli_support::Bindgen;

/// The weights of the largest model.
const SHAPES: &str = "assets/models/shapes-base/transformer/diffusion_pytorch_model.safetensors";

/// Makes the folder of the web page
#[derive(Debug, Parser)]
struct Arguments {
    /// The trainer as cargo has compiled it
    wasm: PathBuf,
    /// The files of the page
    #[arg(long, default_value = "web/page")]
    page: PathBuf,
    /// The folder to make
    #[arg(long, default_value = "target/page")]
    out: PathBuf,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { wasm, page, out } = Arguments::parse();
    fs::create_dir_all(&out)?;
    Bindgen::new()
        .input_path(&wasm)
        .out_name("flowdppo")
        .typescript(false)
        .remove_name_section(true)
        .remove_producers_section(true)
        .web(true)?
        .generate(&out)?;
    for entry in fs::read_dir(&page)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            fs::copy(&path, out.join(name))?;
        }
    }
    // Loaded only when it is chosen.
    fs::copy(SHAPES, out.join("shapes.safetensors"))?;
    let (mut whole, mut compressed) = (0, 0);
    for entry in fs::read_dir(&out)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "safetensors") {
            continue;
        }
        let bytes = fs::read(path)?;
        whole += bytes.len();
        compressed += gzipped(&bytes)?;
    }
    println!(
        "{}: {} KiB, {} KiB compressed (gzip), without the shapes ({} KiB)",
        out.display(),
        whole >> 10,
        compressed >> 10,
        fs::metadata(SHAPES)?.len() >> 10
    );
    Ok(())
}

fn gzipped(bytes: &[u8]) -> std::io::Result<usize> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?.len())
}
