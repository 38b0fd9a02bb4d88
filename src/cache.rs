//! Files in the user's cache folder, with checksums: results that take time to compute again.

use std::path::PathBuf;

use crate::files;

/// The folder of this program: `FLOWDPPO_CACHE_DIR`, or else its own folder in the system's place for caches
/// (`~/.cache` or `XDG_CACHE_HOME`, `~/Library/Caches`, `%LOCALAPPDATA%`). It need not exist yet. `None` if the
/// system has no such place.
pub fn directory() -> Option<PathBuf> {
    match std::env::var_os("FLOWDPPO_CACHE_DIR").filter(|path| !path.is_empty()) {
        Some(path) => Some(path.into()),
        #[cfg(feature = "cli")]
        None => dirs::cache_dir().map(|caches| caches.join("flowdppo-wgpu")),
        // A library leaves its user's files alone.
        #[cfg(not(feature = "cli"))]
        None => None,
    }
}

/// The magic bytes of every file; the number is the version of the format.
const MAGIC: [u8; 8] = *b"FLOWDPP1";

/// The content of `file` in the cache for `key`; `None` if the file is missing, damaged or for another key. A cache
/// that cannot be used is not an error: its content is computed again.
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
        log::debug!("{} is ignored, as it is damaged or for another key", path.display());
    }
    content.map(<[u8]>::to_vec)
}

/// Stores `content` for `key` in `file`, atomically. If it cannot be written, that is not an error either.
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
    fn only_the_content_of_the_same_key_is_read_back() {
        let packed = pack("a driver", b"pipelines");
        assert_eq!(unpack(&packed, "a driver"), Some(b"pipelines".as_slice()));
        assert_eq!(unpack(&packed, "another driver"), None);
        assert_eq!(unpack(&pack("", b""), ""), Some(b"".as_slice()));
    }

    #[test]
    fn any_damage_is_detected() {
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
