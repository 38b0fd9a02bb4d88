//! Ranks that MPI connects.
//!
//! A rank that arrives first sleeps until the others are there, instead of keeping a processor busy as MPI libraries do; the
//! device of another rank may be that processor. Messages are split, because MPI counts bytes in 32 bits.

use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::{Universe, initialize_with_threading, processor_name};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use super::launch::Launch;
use super::watch::Watch;
use super::{Collective, Seat};
use crate::error::{Error, Result};

/// Bytes that a rank sends at once.
const PIECE: usize = 1 << 24;
/// For so long a rank that waits only yields; afterwards it sleeps.
const YIELDING: Duration = Duration::from_millis(1);
/// How long it sleeps between two looks.
const NAP: Duration = Duration::from_micros(200);

/// The ranks of an MPI program.
pub(super) struct Mpi {
    world: SimpleCommunicator,
    seat: Seat,
    on_machine: Seat,
    /// Before the connection: nothing that ends after it is a death.
    watch: Watch,
    /// Closes the connection when it is dropped.
    _universe: Universe,
}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mpi").field("seat", &self.seat).field("on_machine", &self.on_machine).finish_non_exhaustive()
    }
}

impl Mpi {
    /// Connects the processes that were launched.
    ///
    /// # Errors
    /// [`Error::Input`] if this MPI library does not know the launcher.
    pub fn start(launch: &Launch) -> Result<Self> {
        let Some((universe, _)) = initialize_with_threading(Threading::Funneled) else {
            return Err(Error::failed("MPI is in use already"));
        };
        let world = universe.world();
        let seat = Seat { rank: world.rank() as usize, size: world.size() as usize };
        if seat.size != launch.size {
            return Err(launch.of_other_mpi(seat.size));
        }
        let mut it =
            Self { world, seat, on_machine: Seat::default(), watch: Watch::over(Vec::new(), 0), _universe: universe };
        let machine = processor_name().unwrap_or_default();
        let places = it.gather(format!("{} {machine}", std::process::id()).as_bytes())?;
        let place = |bytes: &Vec<u8>| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let (process, machine) = text.split_once(' ')?;
            Some((process.parse().ok()?, machine.to_owned()))
        };
        let places: Vec<(u32, String)> = places.iter().filter_map(place).collect();
        let here: Vec<(usize, u32)> = places
            .iter()
            .enumerate()
            .filter(|(_, (_, other))| *other == machine)
            .map(|(rank, (process, _))| (rank, *process))
            .collect();
        let rank = here.iter().position(|(rank, _)| *rank == seat.rank).unwrap_or(0);
        it.on_machine = Seat { rank, size: here.len().max(1) };
        it.watch = Watch::over(here.into_iter().filter(|(rank, _)| *rank != seat.rank).collect(), seat.rank);
        Ok(it)
    }

    /// Sleeps until all ranks are here.
    fn meet(&self) {
        let begin = Instant::now();
        let mut request = self.world.immediate_barrier();
        while let Err(open) = request.test() {
            request = open;
            match begin.elapsed() < YIELDING {
                true => std::thread::yield_now(),
                false => std::thread::sleep(NAP),
            }
        }
    }

    /// Bytes that each rank sends in a round: all of a round together are counted in 31 bits.
    fn piece(&self) -> usize {
        PIECE.min((1 << 30) / self.seat.size)
    }
}

/// Where consecutive parts of these sizes begin.
fn starts(counts: &[i32]) -> Vec<i32> {
    counts
        .iter()
        .scan(0, |next, count| {
            let start = *next;
            *next += count;
            Some(start)
        })
        .collect()
}

/// How many of `length` bytes are sent in the round that begins at `first`.
fn in_round(length: u64, first: usize, piece: usize) -> usize {
    (length as usize).saturating_sub(first).min(piece)
}

/// Room for so many bytes together. Even for none it is on the heap: the address of an empty vector may be 1, which to MPI
/// means that the other buffer is to be used.
fn room(counts: &[i32]) -> Vec<u8> {
    let length = counts.iter().map(|count| *count as usize).sum();
    let mut bytes = Vec::with_capacity(usize::max(length, 1));
    bytes.resize(length, 0);
    bytes
}

/// Appends what was received in a round to what was before.
fn append(to: &mut [Vec<u8>], mut received: &[u8], counts: &[i32]) {
    for (to, count) in to.iter_mut().zip(counts) {
        let (these, others) = received.split_at(*count as usize);
        to.extend_from_slice(these);
        received = others;
    }
}

impl Collective for Mpi {
    fn seat(&self) -> Seat {
        self.seat
    }

    fn on_machine(&self) -> Seat {
        self.on_machine
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.meet();
        let mut lengths = vec![0_u64; self.seat.size];
        self.world.all_gather_into(&(own.len() as u64), &mut lengths[..]);
        let mut all: Vec<Vec<u8>> = vec![Vec::new(); self.seat.size];
        let (most, piece) = (lengths.iter().max().copied().unwrap_or(0) as usize, self.piece());
        for first in (0..most).step_by(piece) {
            let counts: Vec<i32> = lengths.iter().map(|length| in_round(*length, first, piece) as i32).collect();
            let mut received = room(&counts);
            let begin = own.len().min(first);
            let mut mine = room(&counts[self.seat.rank..=self.seat.rank]);
            mine.copy_from_slice(&own[begin..begin + in_round(own.len() as u64, first, piece)]);
            let displacements = starts(&counts);
            self.world.all_gather_varcount_into(
                &mine[..],
                &mut PartitionMut::new(&mut received[..], &counts[..], &displacements[..]),
            );
            append(&mut all, &received, &counts);
        }
        Ok(all)
    }

    fn exchange(&self, to: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        self.meet();
        let sent: Vec<u64> = to.iter().map(|bytes| bytes.len() as u64).collect();
        let mut expected = vec![0_u64; self.seat.size];
        self.world.all_to_all_into(&sent[..], &mut expected[..]);
        let longest = sent.iter().max().copied().unwrap_or(0);
        let mut most = 0_u64;
        self.world.all_reduce_into(&longest, &mut most, SystemOperation::max());
        let mut all: Vec<Vec<u8>> = vec![Vec::new(); self.seat.size];
        // A round has a piece for each of the ranks.
        let piece = (self.piece() / self.seat.size).max(1);
        for first in (0..most as usize).step_by(piece) {
            let count = |lengths: &[u64]| -> Vec<i32> {
                lengths.iter().map(|length| in_round(*length, first, piece) as i32).collect()
            };
            let (send, receive) = (count(&sent), count(&expected));
            let parts = to.iter().zip(&send).map(|(bytes, count)| {
                let begin = bytes.len().min(first);
                &bytes[begin..begin + *count as usize]
            });
            let mut to_send = room(&send);
            to_send.copy_from_slice(&parts.collect::<Vec<&[u8]>>().concat());
            let mut received = room(&receive);
            let (from, into) = (starts(&send), starts(&receive));
            self.world.all_to_all_varcount_into(
                &Partition::new(&to_send[..], &send[..], &from[..]),
                &mut PartitionMut::new(&mut received[..], &receive[..], &into[..]),
            );
            append(&mut all, &received, &receive);
        }
        Ok(all)
    }

    fn on_death(&self, remedy: String) {
        self.watch.set_remedy(remedy);
    }

    fn abort(&self, code: u8) -> ! {
        self.world.abort(code.into())
    }
}
