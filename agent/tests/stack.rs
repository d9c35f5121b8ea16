//! Adds up the stack of each program and of the functions that it calls, as the kernel's verifier does.
//!
//! Linux 5.10 refuses a program whose calls need more than 512 bytes together (`check_max_stack_depth`,
//! <https://github.com/torvalds/linux/blob/v5.10/kernel/bpf/verifier.c>). Newer kernels count less strictly, so only a machine
//! of that age would show it.

use std::collections::BTreeMap;

use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex, SymbolKind,
    read::elf::ElfFile64,
};

static PROGRAMS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/spoor-ebpf"));

/// `MAX_BPF_STACK`: bytes of stack of a program with all its calls.
const MOST: u64 = 512;

/// The verifier rounds each frame up to a multiple of this, and a frame without bytes to one of it.
const ROUNDED: u64 = 32;

/// Longest chain of calls (`MAX_CALL_FRAMES`).
const FRAMES: usize = 8;

/// Register that holds the frame's address, and cannot be written.
const FRAME: u8 = 10;

// Codes of instructions (https://docs.kernel.org/bpf/standardization/instruction-set.html).
const LOAD: u8 = 1;
const STORE: u8 = 2;
const STORE_REGISTER: u8 = 3;
const LOAD_TWO_WORDS: u8 = 0x18;
const ADD: u8 = 0x07;
const MOVE_REGISTER: u8 = 0xbf;
const CALL: u8 = 0x85;
/// Source register of a call of a function of the object's own.
const OWN_FUNCTION: u8 = 1;

#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    to: u8,
    from: u8,
    offset: i16,
    value: i32,
}

impl Instruction {
    fn decode(bytes: [u8; 8]) -> Self {
        let [code, registers, a, b, c, d, e, f] = bytes;
        Self {
            code,
            to: registers & 15,
            from: registers >> 4,
            offset: i16::from_le_bytes([a, b]),
            value: i32::from_le_bytes([c, d, e, f]),
        }
    }
}

/// A function of the object.
#[derive(Debug, Default)]
struct Function {
    name: String,
    /// Bytes of stack that it uses itself.
    bytes: u64,
    /// Functions that it calls, by place.
    calls: Vec<Place>,
}

/// Section and offset of a function.
type Place = (usize, u64);

fn functions() -> BTreeMap<Place, Function> {
    let object = ElfFile64::<object::Endianness>::parse(PROGRAMS).unwrap();
    let symbols = object.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
    let mut functions = BTreeMap::new();
    for symbol in symbols.filter(|symbol| symbol.size() > 0) {
        let section = symbol.section_index().unwrap();
        let code = object.section_by_index(section).unwrap().data().unwrap();
        let from = symbol.address() as usize;
        let code = &code[from..from + symbol.size() as usize];
        let mut function = Function {
            name: symbol.name().unwrap().to_owned(),
            ..Function::default()
        };
        // Copies of the frame's address, which the next instruction may lower.
        let mut copies = [false; 11];
        let mut at = 0;
        while let Some((bytes, _)) = code[at..].split_first_chunk() {
            let it = Instruction::decode(*bytes);
            let below = |offset: i64| offset.min(0).unsigned_abs();
            let on_frame = match it.code & 7 {
                LOAD if it.from == FRAME => below(it.offset.into()),
                STORE | STORE_REGISTER if it.to == FRAME => below(it.offset.into()),
                _ if it.code == ADD && copies[usize::from(it.to)] => below(it.value.into()),
                _ => 0,
            };
            function.bytes = function.bytes.max(on_frame);
            copies[usize::from(it.to.min(FRAME))] = it.code == MOVE_REGISTER && it.from == FRAME;
            if it.code == CALL && it.from == OWN_FUNCTION {
                function
                    .calls
                    .push(called(&object, section, (from + at) as u64, it.value));
            }
            at += if it.code == LOAD_TWO_WORDS { 16 } else { 8 };
        }
        functions.insert((section.0, symbol.address()), function);
    }
    functions
}

/// Returns the place of the function that the instruction at `at` calls, which the linker may have left to the loader.
fn called(object: &ElfFile64<'_>, section: SectionIndex, at: u64, value: i32) -> Place {
    let ahead = (i64::from(value) + 1) * 8;
    let mut relocations = object.section_by_index(section).unwrap().relocations();
    let Some((_, relocation)) = relocations.find(|&(offset, _)| offset == at) else {
        return (section.0, at.strict_add_signed(ahead));
    };
    let RelocationTarget::Symbol(symbol) = relocation.target() else {
        panic!("a call of {:?}", relocation.target());
    };
    let symbol = object.symbol_by_index(symbol).unwrap();
    let offset = if symbol.kind() == SymbolKind::Section {
        ahead as u64
    } else {
        symbol.address()
    };
    (symbol.section_index().unwrap().0, offset)
}

/// Returns the chain of calls from a function on that needs the most stack, and its bytes.
fn deepest(functions: &BTreeMap<Place, Function>, place: Place, frames: usize) -> (u64, Vec<String>) {
    assert!(frames < FRAMES, "a chain of more than {FRAMES} calls");
    let function = &functions[&place];
    let own = function.bytes.max(1).next_multiple_of(ROUNDED);
    let calls = function.calls.iter().map(|&call| deepest(functions, call, frames + 1));
    let (bytes, mut chain) = calls.max().unwrap_or_default();
    chain.insert(0, format!("{} {}", function.name, function.bytes));
    (own + bytes, chain)
}

#[test]
fn each_program_fits_on_the_stack_with_all_that_it_calls() {
    let functions = functions();
    let all: Vec<(u64, Vec<String>)> = functions.keys().map(|&place| deepest(&functions, place, 0)).collect();
    assert!(
        all.iter().any(|(bytes, chain)| *bytes > 256 && chain.len() > 4),
        "{all:#?}"
    );
    let too_deep: Vec<_> = all.iter().filter(|&&(bytes, _)| bytes > MOST).collect();
    assert!(too_deep.is_empty(), "more than {MOST} bytes of stack: {too_deep:#?}");
}
