use agentdistill::sandbox::*;
#[test]
fn first() {
    let t = std::time::Instant::now();
    let s = Sandbox::new(Tools::new(), Limits::default(), 0, None).unwrap();
    println!("{:?}", t.elapsed());
    let (o, st) = s.run(s.initial(), "x = 41\nprint(x)\nx + 1").unwrap();
    println!("{o:?} {st:?}");
    for n in 0..2 {
        let mut st = s.initial().clone();
        let t = std::time::Instant::now();
        for _ in 0..2000 {
            let (_o, next) = s.run(if n == 0 { s.initial() } else { &st }, "print(2+2)").unwrap();
            st = next;
        }
        println!("{:?} per {n}", t.elapsed() / 2000);
    }
}
