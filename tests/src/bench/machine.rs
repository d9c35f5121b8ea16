//! The machine that a benchmark ran on.

use std::{fmt, fs::read_to_string};

/// Kernel, processors and load, as far as /proc tells them.
pub struct Machine {
    kernel: String,
    model: String,
    processors: usize,
    /// Load average of the last minute: what else the machine does shows there.
    load: String,
}

impl Machine {
    /// Reads what this machine is, and does now.
    pub fn read() -> Self {
        let [kernel, processors, load] = ["sys/kernel/osrelease", "cpuinfo", "loadavg"]
            .map(|name| read_to_string(format!("/proc/{name}")).unwrap_or_default());
        Self::parse(&kernel, &processors, &load)
    }

    fn parse(kernel: &str, cpuinfo: &str, loadavg: &str) -> Self {
        let values = |name: &'static str| {
            let fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
            fields.filter(move |(field, _)| field.trim() == name)
        };
        // 64-bit ARM names no model.
        let model = values("model name").next().map_or("unknown", |(_, model)| model.trim());
        Self {
            kernel: kernel.trim().to_owned(),
            model: model.to_owned(),
            processors: values("processor").count(),
            load: loadavg.split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kernel,
            model,
            processors,
            load,
        } = self;
        write!(
            f,
            "Linux {kernel}; CPU: {model}; processors: {processors}; load before: {load}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_and_their_model() {
        let of = |cpuinfo| Machine::parse("6.18.1\n", cpuinfo, "0.42 0.20 0.10 1/99 4711\n").to_string();
        let x86 = "processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: AMD EPYC\n";
        assert_eq!(of(x86), "Linux 6.18.1; CPU: AMD EPYC; processors: 2; load before: 0.42");
        let arm = "processor\t: 0\nCPU part\t: 0xd0c\n";
        assert_eq!(of(arm), "Linux 6.18.1; CPU: unknown; processors: 1; load before: 0.42");
    }
}
