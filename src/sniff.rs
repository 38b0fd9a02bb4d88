//! What a file is, by its first bytes: endings can be wrong, contents cannot.

/// What a file of this beginning is, for messages such as "a.jpg is a HEIC image"; `None` if nothing is known of it.
/// Formats that the program reads are not named.
pub fn what_is(bytes: &[u8]) -> Option<&'static str> {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    // A safetensors file begins with the length of its header in eight bytes, which may look like anything.
    if bytes.get(8) == Some(&b'{') && !starts(b"{") {
        return None;
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        return Some(match bytes.get(8..12)? {
            b"avif" | b"avis" => "an AVIF image",
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => "a HEIC image",
            b"qt  " => "a QuickTime video",
            _ => "an MP4 video",
        });
    }
    let known: [(&[u8], &str); 16] = [
        (b"GGUF", "a GGUF file"),
        (b"PK\x03\x04", "a zip archive, as PyTorch writes its checkpoints"),
        (b"\x80\x02", "a Python pickle, as PyTorch wrote its checkpoints"),
        (b"\x80\x03", "a Python pickle"),
        (b"\x80\x04", "a Python pickle"),
        (b"\x80\x05", "a Python pickle"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"%PDF-", "a PDF document"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
        (b"Rar!\x1a\x07", "a RAR archive"),
        (b"8BPS", "a Photoshop file"),
        (b"\xff\x0a", "a JPEG XL image"),
        (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
        (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    ];
    known.iter().find(|(magic, _)| starts(magic)).map(|(_, name)| *name).or_else(|| what_text_is(bytes))
}

/// The same of text, whatever space and byte order mark it begins with.
fn what_text_is(bytes: &[u8]) -> Option<&'static str> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let head: Vec<u8> = bytes.iter().take(512).map(u8::to_ascii_lowercase).collect();
    let starts = |text: &str| head.starts_with(text.as_bytes());
    if starts("version https://git-lfs.github.com/spec/") {
        return Some("a pointer of Git LFS, which stands for the file: fetch the file itself with `git lfs pull`");
    }
    if starts("<!doctype html") || starts("<html") || starts("<head") {
        return Some("an HTML page, such as a website's message in place of a download");
    }
    if starts("<svg") || (starts("<?xml") && head.windows(4).any(|part| part == b"<svg")) {
        return Some("an SVG drawing");
    }
    if starts("<?xml") {
        return Some("an XML document");
    }
    (starts("{") && head.windows(12).any(|part| part == b"\"weight_map\"")).then_some(
        "the index of a model in several files, which cannot be read yet: join them into one safetensors file",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_first_bytes() {
        let cases: [(&[u8], &str); 8] = [
            (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "HEIC"),
            (b"\0\0\0\x1cftypavif", "AVIF"),
            (b"\xef\xbb\xbf\n <!DOCTYPE html><title>404</title>", "HTML"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
            (b"<?xml version=\"1.0\"?>\n<svg xmlns=", "SVG"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"PK\x03\x04\0\0\0\0\x08\0", "zip"),
            (b"{\"metadata\": {}, \"weight_map\": {", "several files"),
        ];
        for (bytes, name) in cases {
            assert!(what_is(bytes).is_some_and(|what| what.contains(name)), "{name}: {:?}", what_is(bytes));
        }
        let unknown: [&[u8]; 4] = [b"", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04\0\0\0\0{\"a\"", b"some text"];
        for bytes in unknown {
            assert_eq!(what_is(bytes), None);
        }
    }
}
