use agent_ebpf::abi::*;
use spoor::probe::*;
fn main() {
    let t = std::time::Instant::now();
    let mut p = match Probe::load(Settings {
        ring_bytes: 8 << 20,
        connections: 32768,
    }) {
        Ok(p) => p,
        Err(e) => {
            println!("{e}");
            std::process::exit(1)
        }
    };
    println!("loaded in {:?}, lost {:?}", t.elapsed(), p.lost);
    for a in std::env::args().skip(1) {
        p.shared.set_target(a.parse().unwrap(), true);
    }
    let end = std::time::Instant::now() + std::time::Duration::from_secs(9);
    while std::time::Instant::now() < end {
        p.ring.drain(1000, |r| {
            let h: Header = unsafe { std::ptr::read_unaligned(r.as_ptr().cast()) };
            match h.kind {
                1 => println!("{} {:?}", h.execution.tid, unsafe {
                    std::ptr::read_unaligned(r.as_ptr().cast::<Open>())
                }),
                2 => println!("{} {:?}", h.execution.tid, unsafe {
                    std::ptr::read_unaligned(r.as_ptr().cast::<Connect>())
                }),
                3 => {
                    let s = unsafe { std::ptr::read_unaligned(r.as_ptr().cast::<Segment>()) };
                    println!(
                        "{} seg {} dir {} flags {} [{}..{}] captured {} call {} {:?}",
                        h.execution.tid,
                        s.conn,
                        h.direction,
                        h.flags,
                        s.offset,
                        s.end,
                        s.captured,
                        s.call_bytes,
                        String::from_utf8_lossy(&r[size_of::<Segment>()..][..(s.captured as usize).min(60)])
                    )
                }
                4 => println!("{:?}", unsafe { std::ptr::read_unaligned(r.as_ptr().cast::<State>()) }),
                k => println!("kind {k} tid {}", h.execution.tid),
            }
        });
        p.ring.pause(std::time::Duration::from_millis(10));
    }
    println!("{:?}", p.shared.counters());
    let t = std::time::Instant::now();
    drop(p);
    println!("dropped in {:?}", t.elapsed());
}
