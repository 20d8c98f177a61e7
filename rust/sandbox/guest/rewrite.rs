//! Takes the component that componentize-py made apart: its memory becomes an image beside the code, and the code
//! learns to stop when told to.
//!
//! Inside the component one core module owns the one linear memory and has all the data segments; the others import it.

use std::ops::Range;

use wasmparser::{
    BinaryReader, CodeSectionReader, DataKind, DataSectionReader, KnownCustom, Name, Operator, Parser, Payload, TypeRef,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const CORE_MODULE: u8 = 1;
const COMPONENT: u8 = 4;
const CUSTOM: u8 = 0;
const CODE: u8 = 10;
const DATA: u8 = 11;
const DATA_COUNT: u8 = 12;

/// Where CPython looks at what is pending (signals, exceptions sent from outside): it must not get by the check either.
const CHECKED_AT_ENTRY: &str = "_Py_HandlePending";

/// Gives the component without data segments and with the checks, and the memory it starts with.
pub fn rewrite(component: &[u8], stop_word: u32) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut image = Vec::new();
    let rewritten = rewrite_component(component, stop_word, &mut image)?;
    if image.is_empty() {
        return Err("the component has no data segments".into());
    }
    if image[..4096].iter().any(|&byte| byte != 0) {
        return Err("the first page of the guest's memory is in use".into());
    }
    Ok((rewritten, image))
}

fn rewrite_component(bytes: &[u8], stop_word: u32, image: &mut Vec<u8>) -> Result<Vec<u8>> {
    let mut out = bytes[..8].to_vec();
    for (id, body) in sections(bytes)? {
        match id {
            CORE_MODULE => put_section(&mut out, id, &rewrite_module(&bytes[body], stop_word, image)?),
            COMPONENT => put_section(&mut out, id, &rewrite_component(&bytes[body], stop_word, image)?),
            _ => put_section(&mut out, id, &bytes[body]),
        }
    }
    Ok(out)
}

fn rewrite_module(bytes: &[u8], stop_word: u32, image: &mut Vec<u8>) -> Result<Vec<u8>> {
    let facts = Facts::of(bytes)?;
    let mut out = bytes[..8].to_vec();
    for (id, body) in sections(bytes)? {
        let body = &bytes[body];
        match id {
            CUSTOM | DATA_COUNT => {}
            DATA => take_data(body, facts.memory_pages, image)?,
            CODE if facts.has_memory => put_section(&mut out, id, &with_checks(body, &facts, stop_word)?),
            _ => put_section(&mut out, id, body),
        }
    }
    Ok(out)
}

/// What the rewriting of a module needs to know about it.
#[derive(Default)]
struct Facts {
    has_memory: bool,
    memory_pages: u64,
    imported_functions: u32,
    checked_at_entry: Vec<u32>,
}

impl Facts {
    fn of(module: &[u8]) -> Result<Self> {
        let mut facts = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        match import?.ty {
                            TypeRef::Memory(_) => facts.has_memory = true,
                            TypeRef::Func(_) => facts.imported_functions += 1,
                            _ => {}
                        }
                    }
                }
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        facts.has_memory = true;
                        facts.memory_pages = memory?.initial;
                    }
                }
                Payload::CustomSection(section) => {
                    if let KnownCustom::Name(names) = section.as_known() {
                        for name in names {
                            if let Name::Function(functions) = name? {
                                for function in functions {
                                    let function = function?;
                                    if function.name.contains(CHECKED_AT_ENTRY) {
                                        facts.checked_at_entry.push(function.index);
                                    }
                                }
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(facts)
    }
}

/// Applies the data segments to a zeroed memory.
fn take_data(body: &[u8], pages: u64, image: &mut Vec<u8>) -> Result<()> {
    let segments = DataSectionReader::new(BinaryReader::new(body, 0))?;
    if segments.count() == 0 {
        return Ok(());
    }
    if !image.is_empty() {
        return Err("two modules of the component have data segments".into());
    }
    image.resize(usize::try_from(pages)? * 65536, 0);
    for segment in segments {
        let segment = segment?;
        let DataKind::Active { memory_index: 0, offset_expr } = segment.kind else {
            return Err("a data segment that is not applied at the start".into());
        };
        let Operator::I32Const { value } = offset_expr.get_operators_reader().read()? else {
            return Err("a data segment whose place is not a constant".into());
        };
        let start = value as u32 as usize;
        image
            .get_mut(start..start + segment.data.len())
            .ok_or("a data segment beyond the memory")?
            .copy_from_slice(segment.data);
    }
    Ok(())
}

/// Inserts `if *stop_word { unreachable }` at the head of every loop.
fn with_checks(body: &[u8], facts: &Facts, stop_word: u32) -> Result<Vec<u8>> {
    let mut check = vec![0x41]; // i32.const
    put_leb(&mut check, u64::from(stop_word));
    check.extend([0x28, 2, 0, 0x04, 0x40, 0x00, 0x0b]); // i32.load; if; unreachable; end

    let functions = CodeSectionReader::new(BinaryReader::new(body, 0))?;
    let mut out = Vec::with_capacity(body.len() + body.len() / 16);
    put_leb(&mut out, u64::from(functions.count()));
    for (index, function) in functions.into_iter().enumerate() {
        let function = function?;
        let range = function.range();
        let mut operators = function.get_operators_reader()?;
        let mut rewritten = Vec::with_capacity(range.len() + 256);
        let mut copied = range.start;
        let mut insert_at = |position: usize| {
            rewritten.extend_from_slice(&body[copied..position]);
            rewritten.extend_from_slice(&check);
            copied = position;
        };
        if facts.checked_at_entry.contains(&(facts.imported_functions + u32::try_from(index)?)) {
            insert_at(operators.original_position());
        }
        while !operators.eof() {
            if let Operator::Loop { .. } = operators.read()? {
                insert_at(operators.original_position());
            }
        }
        rewritten.extend_from_slice(&body[copied..range.end]);
        put_leb(&mut out, rewritten.len() as u64);
        out.extend(rewritten);
    }
    Ok(out)
}

/// The sections of a module or component: id and where the content is.
fn sections(bytes: &[u8]) -> Result<Vec<(u8, Range<usize>)>> {
    let mut reader = BinaryReader::new(&bytes[8..], 8);
    let mut found = Vec::new();
    while !reader.eof() {
        let id = reader.read_u8()?;
        let size = reader.read_var_u32()? as usize;
        let start = reader.original_position();
        reader.read_bytes(size)?;
        found.push((id, start..start + size));
    }
    Ok(found)
}

fn put_section(out: &mut Vec<u8>, id: u8, body: &[u8]) {
    out.push(id);
    put_leb(out, body.len() as u64);
    out.extend_from_slice(body);
}

fn put_leb(out: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}
