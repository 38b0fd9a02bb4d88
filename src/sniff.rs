//! Recognises the kind of a file by its first bytes, not by its extension.

/// Names the kind of a file by its first bytes, for the end of a sentence such as "model.safetensors is …".
///
/// `None` if it is none of the kinds below. A safetensors file, a configuration and CSV have no magic number: they are
/// recognised by reading them. A few hundred bytes are enough, but `bytes` may be the complete file.
#[must_use]
pub fn what_is(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("an empty file");
    }
    if is_safetensors(bytes) {
        return None;
    }
    magic(bytes).or_else(|| text(bytes)).or_else(|| is_onnx(bytes).then_some("an ONNX model"))
}

/// Whether a length below 4 GiB and a JSON header follow: the bytes of the length may look like another kind.
fn is_safetensors(bytes: &[u8]) -> bool {
    bytes.get(4..9) == Some(b"\0\0\0\0{")
}

/// Kinds with fixed first bytes.
fn magic(bytes: &[u8]) -> Option<&'static str> {
    if let Some(kind) = iso_media(bytes).or_else(|| riff(bytes)) {
        return Some(kind);
    }
    let zip = || match is_torch_zip(bytes) {
        true => "a PyTorch checkpoint (.pt, .pth, .bin)",
        false => "a ZIP archive",
    };
    let kinds: [(&[u8], &'static str); 18] = [
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"GIF87a", "a GIF image"),
        (b"GIF89a", "a GIF image"),
        (b"II*\0", "a TIFF image"),
        (b"MM\0*", "a TIFF image"),
        (b"8BPS", "a Photoshop image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"\xff\x0a", "a JPEG XL image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"%PDF-", "a PDF document"),
        (b"GGUF", "a GGUF model"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file (.h5, as Keras writes)"),
        (b"\x93NUMPY", "a NumPy array (.npy)"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
        (b"Rar!\x1a\x07", "a RAR archive"),
    ];
    if let Some((_, kind)) = kinds.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(kind);
    }
    match bytes {
        [b'P', b'K', 3, 4, ..] => Some(zip()),
        [b'P', b'K', 5, 6, ..] => Some("a ZIP archive"),
        // Protocols 2 to 5 of Python's pickle, which PyTorch used before it wrote ZIP files.
        [0x80, 2..=5, 0x8a | 0x95 | b'c' | b'}' | b']' | b'(' | b'X', ..] => {
            Some("a Python pickle, such as an old PyTorch checkpoint (.pt, .pth, .bin)")
        }
        _ if bytes.get(257..262) == Some(b"ustar".as_slice()) => Some("a tar archive"),
        _ => None,
    }
}

/// HEIC, AVIF and videos: a box `ftyp` with a brand.
fn iso_media(bytes: &[u8]) -> Option<&'static str> {
    if bytes.get(4..8)? != b"ftyp" {
        return None;
    }
    let brands = || bytes[8..bytes.len().min(64)].chunks_exact(4);
    let any = |names: &[&[u8; 4]]| brands().any(|brand| names.iter().any(|name| brand == *name));
    Some(match () {
        () if any(&[b"avif", b"avis"]) => "an AVIF image",
        () if any(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"]) => "a HEIC image",
        () => "a video (MP4 or QuickTime)",
    })
}

/// WebP, and sound and videos in the same container.
fn riff(bytes: &[u8]) -> Option<&'static str> {
    match (bytes.get(..4)?, bytes.get(8..12)?) {
        (b"RIFF", b"WEBP") => Some("a WebP image"),
        (b"RIFF", b"WAVE") => Some("a sound file (WAV)"),
        (b"RIFF", b"AVI ") => Some("a video (AVI)"),
        _ => None,
    }
}

/// The first entries of the ZIP file that `torch.save` writes are `NAME/data.pkl` and `NAME/.format_version`.
fn is_torch_zip(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(512)];
    contains(head, b"/data.pkl") || contains(head, b"/.format_version")
}

/// Kinds of text, after an optional byte order mark and white space.
fn text(bytes: &[u8]) -> Option<&'static str> {
    let head = &bytes[..bytes.len().min(1024)];
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let begins =
        |start: &str| head.get(..start.len()).is_some_and(|found| found.eq_ignore_ascii_case(start.as_bytes()));
    if begins("version https://git-lfs.github.com/spec/") {
        return Some("a Git LFS pointer, not the file itself: fetch it with `git lfs pull`");
    }
    if begins("/annex/objects/") {
        return Some("a git-annex pointer, not the file itself: fetch it with `git annex get`");
    }
    if ["<!doctype html", "<html", "<head", "<body"].iter().any(|start| begins(start)) {
        return Some("a web page (HTML), probably an error or login page saved in place of the file");
    }
    if begins("<svg") || (begins("<?xml") && contains(head, b"<svg")) {
        return Some("an SVG drawing");
    }
    if begins("<?xml") {
        return Some(match contains(head, b"<html") {
            true => "a web page (HTML), probably an error or login page saved in place of the file",
            false => "an XML document",
        });
    }
    let is_text = std::str::from_utf8(head).map_or_else(|cause| cause.error_len().is_none(), |_| true)
        && !head.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace());
    match head.first() {
        Some(b'{') if is_text && contains(&bytes[..bytes.len().min(1 << 20)], b"\"weight_map\"") => {
            Some("the index of a sharded model (.index.json), not the model itself")
        }
        Some(b'{') if is_text => Some("a text file, apparently JSON"),
        // Not the header of a TOML section.
        Some(b'[')
            if is_text
                && head[1..].trim_ascii_start().first().is_some_and(|next| b"[{\"-]0123456789".contains(next)) =>
        {
            Some("a text file, apparently JSON")
        }
        Some(_) if is_text => Some("a text file"),
        _ => None,
    }
}

/// An ONNX model is a protocol buffer without a magic number. Field 1 is the version of the format, a small number. The
/// name of the program that wrote it (field 2), an import of operators (field 8) or the graph (field 7) follows.
fn is_onnx(bytes: &[u8]) -> bool {
    matches!(bytes, [0x08, 1..=0x20, 0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42, ..])
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_file_is_recognised() {
        let zip = |name: &str| {
            let mut bytes = b"PK\x03\x04".to_vec();
            bytes.resize(26, 0);
            bytes.extend((name.len() as u16).to_le_bytes());
            bytes.extend([0, 0]);
            bytes.extend(name.as_bytes());
            bytes
        };
        let mut tar = vec![b'a'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        let cases: [(&[u8], &str); 22] = [
            (b"", "an empty file"),
            (b"\n <!DOCTYPE html><html>", "a web page (HTML)"),
            (b"\xef\xbb\xbf<HTML><head>", "a web page (HTML)"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "a Git LFS pointer"),
            (b"GGUF\x03\0\0\0", "a GGUF model"),
            (&zip("archive/data.pkl"), "a PyTorch checkpoint"),
            (&zip("mimetype"), "a ZIP archive"),
            (b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", "a Python pickle"),
            (b"\x08\x08\x12\x07pytorch", "an ONNX model"),
            (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "a HEIC image"),
            (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "an AVIF image"),
            (b"\0\0\0\x20ftypisom\0\0\x02\0isom", "a video"),
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
            (b"RIFF\x24\0\0\0WEBPVP8 ", "a WebP image"),
            (&tar, "a tar archive"),
            (
                b"{\"metadata\": {}, \"weight_map\": {\"a\": \"model-00001-of-00002.safetensors\"}}",
                "the index of a sharded",
            ),
            (b"{\"a\": 1}", "a text file, apparently JSON"),
            (b"[train]\nsteps = 1\n", "a text file"),
            (b"[ [1, 2]]", "a text file, apparently JSON"),
            ("größer\n".as_bytes(), "a text file"),
            (b"<?xml version=\"1.0\"?><svg/>", "an SVG drawing"),
        ];
        for (bytes, expected) in cases {
            let found = what_is(bytes).unwrap_or("nothing");
            assert!(found.starts_with(expected), "{found} is not {expected}: {:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn files_without_a_signature_are_not_guessed() {
        // The beginning of a safetensors file: a length, then JSON.
        let safetensors = b"\x3a\x01\0\0\0\0\0\0{\"x\":{\"dtype\":\"F32\"";
        // One whose length looks like the beginning of an ONNX model.
        let long = b"\x08\x08\x12\0\0\0\0\0{\"x\":{";
        for bytes in [safetensors.as_slice(), long, b"\0\0\0\0", b"\xfe\xdc\xba\x98\x76"] {
            assert_eq!(what_is(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn every_truncation_is_harmless() {
        let long = b"\0\0\0\x24ftypheic\0\0\0\0mif1heicPK\x03\x04";
        for length in 0..long.len() {
            let _ = what_is(&long[..length]);
            let _ = what_is(&long[length..]);
        }
    }
}
