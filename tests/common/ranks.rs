//! Ranks as threads of a test, connected by memory: everything about a team but MPI.

use std::rc::Rc;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use flowdppo_wgpu::Result;
use flowdppo_wgpu::ranks::{Collective, Seat, Team};

/// What the ranks of a team share.
#[derive(Debug)]
struct Shared {
    said: Mutex<Vec<Vec<Vec<u8>>>>,
    meeting: Barrier,
}

/// One of them.
#[derive(Debug)]
struct Member {
    seat: Seat,
    shared: Arc<Shared>,
}

impl Member {
    /// Says something; returns what `heard` takes of what all have said.
    fn meet<T>(&self, said: Vec<Vec<u8>>, heard: impl Fn(&[Vec<Vec<u8>>]) -> T) -> T {
        self.shared.said.lock().expect("no thread panics here")[self.seat.rank] = said;
        self.shared.meeting.wait();
        let heard = heard(&self.shared.said.lock().expect("no thread panics here"));
        self.shared.meeting.wait();
        heard
    }
}

impl Collective for Member {
    fn seat(&self) -> Seat {
        self.seat
    }

    fn on_machine(&self) -> Seat {
        self.seat
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(self.meet(vec![own.to_vec()], |all| all.iter().map(|said| said[0].clone()).collect()))
    }

    fn exchange(&self, to: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        Ok(self.meet(to, |all| all.iter().map(|said| said[self.seat.rank].clone()).collect()))
    }

    fn on_death(&self, _: String) {}

    fn abort(&self, code: u8) -> ! {
        panic!("rank {} ends all with code {code}", self.seat.rank)
    }
}

/// Does this as every rank of a team of this size; returns what each has, in order.
pub fn as_ranks<T: Send>(size: usize, work: impl Fn(&Team) -> T + Sync) -> Vec<T> {
    let shared = Arc::new(Shared { said: Mutex::new(vec![Vec::new(); size]), meeting: Barrier::new(size) });
    let work = &work;
    thread::scope(|scope| {
        let start = |rank| {
            let shared = shared.clone();
            scope.spawn(move || work(&Team::of(Rc::new(Member { seat: Seat { rank, size }, shared }))))
        };
        let threads: Vec<_> = (0..size).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank does not panic")).collect()
    })
}
