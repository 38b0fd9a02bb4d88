//! What can be made again, but not at once: files in the user's cache folder, with checksums.

use std::path::PathBuf;

use crate::files;

/// The folder of this program: `FLOWDPPO_CACHE_DIR`, else its own in the place that the system has for caches
/// (`~/.cache` or `XDG_CACHE_HOME`, `~/Library/Caches`, `%LOCALAPPDATA%`). It need not exist yet. `None` where the
/// system has none.
pub fn directory() -> Option<PathBuf> {
    match std::env::var_os("FLOWDPPO_CACHE_DIR").filter(|path| !path.is_empty()) {
        Some(path) => Some(path.into()),
        None => dirs::cache_dir().map(|caches| caches.join("flowdppo-wgpu")),
    }
}

/// What every file begins with; the number is that of this form.
const MAGIC: [u8; 8] = *b"FLOWDPP1";

/// What `file` in the cache holds for `key`; `None` if it is missing, damaged or holds something for another
/// key. A cache that cannot be used is not an error: its content is made again.
pub fn read(file: &str, key: &str) -> Option<Vec<u8>> {
    let path = directory()?.join(file);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(cause) => {
            log::debug!("nothing cached in {}: {cause}", path.display());
            return None;
        }
    };
    let content = unpack(&bytes, key);
    if content.is_none() {
        log::debug!("{} is damaged or made for something else, and ignored", path.display());
    }
    content.map(<[u8]>::to_vec)
}

/// Keeps `content` for `key` in `file`, whole or not at all. It is not an error either if it cannot be written.
pub fn write(file: &str, key: &str, content: &[u8]) {
    let Some(directory) = directory() else { return };
    let path = directory.join(file);
    let written = std::fs::create_dir_all(&directory)
        .map_err(|cause| crate::Error::unwritable(&directory, cause))
        .and_then(|()| files::write_atomically(&path, &pack(key, content)));
    match written {
        Ok(()) => log::debug!("cached {} KiB in {}", content.len() >> 10, path.display()),
        Err(error) => log::debug!("nothing is cached: {error}"),
    }
}

/// Magic, CRC-32 of all that follows it, length of the key, key, content.
fn pack(key: &str, content: &[u8]) -> Vec<u8> {
    let body = [&(key.len() as u32).to_le_bytes(), key.as_bytes(), content].concat();
    [MAGIC.as_slice(), &crc32fast::hash(&body).to_le_bytes(), &body].concat()
}

fn unpack<'a>(bytes: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let (checksum, body) = bytes.strip_prefix(&MAGIC)?.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*checksum) != crc32fast::hash(body) {
        return None;
    }
    let (length, rest) = body.split_first_chunk::<4>()?;
    let (found, content) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    (found == key.as_bytes()).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_kept_for_the_key_comes_back() {
        let packed = pack("a driver", b"pipelines");
        assert_eq!(unpack(&packed, "a driver"), Some(b"pipelines".as_slice()));
        assert_eq!(unpack(&packed, "another driver"), None);
        assert_eq!(unpack(&pack("", b""), ""), Some(b"".as_slice()));
    }

    #[test]
    fn any_damage_is_noticed() {
        let packed = pack("key", b"content");
        for length in 0..packed.len() {
            assert_eq!(unpack(&packed[..length], "key"), None, "cut to {length} bytes");
        }
        for index in 0..packed.len() {
            let mut damaged = packed.clone();
            damaged[index] ^= 0x10;
            assert_eq!(unpack(&damaged, "key"), None, "byte {index}");
        }
        assert_eq!(unpack(&[packed.as_slice(), b"!"].concat(), "key"), None);
    }
}
