//! Guards against unannounced growth of Core's cost.

use anyhow::{Result, ensure};
use spoor_tests::instructions::{self, ENDS, TOLERANCE};

#[test]
#[ignore = "needs valgrind, and the program that cargo xtask test builds"]
fn instructions_of_a_request() -> Result<()> {
    let program = instructions::program()?;
    for (ends, announced) in ENDS.iter().zip(instructions::announced()?) {
        let counted = instructions::per_request(&program, ends)?;
        println!("{ends}: {counted:.0} instructions a request, {announced:.0} in the repository");
        ensure!(
            counted <= announced * (1.0 + TOLERANCE),
            "Core takes {counted:.0} instructions for a request ({ends}), and {} says {announced:.0}. If that is worth it: \
             `cargo xtask bench core --bless`, and say why in the commit",
            instructions::file().display()
        );
    }
    Ok(())
}
