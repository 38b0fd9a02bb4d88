//! Compiled pipelines on disk, so that the next start does not compile them again.
//!
//! Most desktop drivers have their own cache; this one helps if a driver has none, or an empty one. Only
//! Vulkan lets a program manage such a cache.

use super::device::Gpu;
use crate::cache;

/// The driver's cache and where it is kept.
#[derive(Debug)]
pub(super) struct PipelineCache {
    pub(super) raw: wgpu::PipelineCache,
    file: String,
    key: String,
    /// The content of the file, to detect whether anything is new.
    loaded: Option<Vec<u8>>,
}

impl PipelineCache {
    /// The cache of an adapter, loaded from disk; `None` if the backend has none.
    pub(super) fn load(device: &wgpu::Device, adapter: &wgpu::AdapterInfo) -> Option<Self> {
        let name = wgpu::util::pipeline_cache_key(adapter)?;
        let file = format!("{name}.bin");
        // Drivers should reject data from another version. We do not rely on it.
        let version = env!("CARGO_PKG_VERSION");
        let key = format!("{version} {name} {} {} {}", adapter.name, adapter.driver, adapter.driver_info);
        let loaded = cache::read(&file, &key);
        let descriptor = wgpu::PipelineCacheDescriptor { label: None, data: loaded.as_deref(), fallback: true };
        // SAFETY: `get_data` returned this data for the same adapter, driver and version: key and checksum
        // match.
        let raw = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Self { raw, file, key, loaded })
    }

    fn save(&self) {
        let data = self.raw.get_data().filter(|data| self.loaded.as_ref() != Some(data));
        if let Some(data) = data {
            cache::write(&self.file, &self.key, &data);
        }
    }
}

impl Drop for Gpu {
    /// Saves the compiled pipelines. Failures are ignored: the cache only saves time.
    fn drop(&mut self) {
        if let Some(cache) = self.pipeline_cache.take()
            && self.counters().pipelines > 0
            && self.check().is_ok()
        {
            cache.save();
        }
    }
}
