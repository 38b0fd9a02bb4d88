//! Trajectories on their way between ranks: in each pass a rank learns from other samples of a rollout.

use std::collections::HashSet;

use maybe_async::maybe_async;

use super::rollout::Rollout;
use super::update::Updater;
use crate::error::Result;

impl Updater {
    /// Brings the trajectories of the samples that this rank learns from in a pass, from the ranks that had them in the
    /// pass before. Nothing is sent where each rank keeps its samples.
    ///
    /// # Errors
    /// If a device is lost, or the connection.
    #[maybe_async]
    pub(super) async fn fetch(&self, rollout: &Rollout, epoch: usize) -> Result<()> {
        let share = self.settings.share();
        if epoch == 0 || !self.team.is_many() {
            return Ok(());
        }
        let of_all = |epoch: usize| -> Vec<Vec<usize>> {
            share.seat.all().map(|seat| share.of_rank(seat, rollout.index, epoch)).collect()
        };
        let (before, now) = (of_all(epoch - 1), of_all(epoch));
        if before == now {
            return Ok(());
        }
        let (had, wanted) = (&before[share.seat.rank], &now[share.seat.rank]);
        let (dim, slots) = (self.model.dim(), self.settings.of_rollouts().stored_slots()?);
        for (memory, _) in &self.trajectory {
            let rows: Vec<f32> = self.team.agree(memory.read(&self.gpu).await)?;
            let part = |of: &Vec<usize>| -> Vec<u8> {
                let places = common(had, of);
                let rows = (0..slots)
                    .flat_map(|slot| places.iter().map(move |place| slot * had.len() + place))
                    .map(|row| bytemuck::cast_slice(&rows[row * dim..(row + 1) * dim]));
                rows.collect::<Vec<&[u8]>>().concat()
            };
            let received = self.team.exchange(now.iter().map(part).collect())?;
            let mut rows = vec![0.0_f32; slots * wanted.len() * dim];
            for (bytes, had) in received.iter().zip(&before) {
                let values: Vec<f32> = bytemuck::pod_collect_to_vec(bytes);
                let places = common(wanted, had);
                let targets = (0..slots).flat_map(|slot| places.iter().map(move |place| slot * wanted.len() + place));
                for (row, values) in targets.zip(values.chunks(dim)) {
                    rows[row * dim..(row + 1) * dim].copy_from_slice(values);
                }
            }
            memory.write(&self.gpu, &rows);
        }
        Ok(())
    }
}

/// The places in a list of its members that are also in another.
fn common(list: &[usize], other: &[usize]) -> Vec<usize> {
    let other: HashSet<&usize> = other.iter().collect();
    (0..list.len()).filter(|place| other.contains(&list[*place])).collect()
}
