//! Splits the component from componentize-py into code that can be stopped, and an image of its memory.
//!
//! In the component, one core module owns the only linear memory and has all data segments. The other modules import
//! the memory. `stop_checks.rs` decides where the code checks whether to stop.

use std::ops::Range;

use wasmparser::{BinaryReader, DataKind, DataSectionReader, Operator, Parser, Payload, TypeRef};

mod stop_checks;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const CORE_MODULE: u8 = 1;
const COMPONENT: u8 = 4;
const CUSTOM: u8 = 0;
const CODE: u8 = 10;
const DATA: u8 = 11;
const DATA_COUNT: u8 = 12;

/// Returns the component, without data segments and with stop checks, and its initial memory.
pub fn rewrite(component: &[u8], stop_word: u32) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut image = Vec::new();
    let rewritten = rewrite_component(component, stop_word, &mut image)?;
    if image.is_empty() {
        return Err("the component has no data segments".into());
    }
    if image[..4096].iter().any(|&byte| byte != 0) {
        return Err("the first page of the guest's memory is used".into());
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
            DATA => apply_data(body, facts.memory_pages, image)?,
            CODE if facts.has_memory => {
                put_section(&mut out, id, &stop_checks::with_checks(body, facts.imported_functions, stop_word)?);
            }
            CODE => {
                stop_checks::check_terminates(body, facts.imported_functions)?;
                put_section(&mut out, id, body);
            }
            _ => put_section(&mut out, id, body),
        }
    }
    Ok(out)
}

/// Facts about a module that rewriting it needs.
#[derive(Default)]
struct Facts {
    has_memory: bool,
    memory_pages: u64,
    imported_functions: u32,
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
                _ => {}
            }
        }
        Ok(facts)
    }
}

/// Applies the data segments to a zeroed memory.
fn apply_data(body: &[u8], pages: u64, image: &mut Vec<u8>) -> Result<()> {
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
            return Err("a data segment is not applied at the start".into());
        };
        let Operator::I32Const { value } = offset_expr.get_operators_reader().read()? else {
            return Err("the address of a data segment is not a constant".into());
        };
        let start = value as u32 as usize;
        image
            .get_mut(start..start + segment.data.len())
            .ok_or("a data segment is outside the memory")?
            .copy_from_slice(segment.data);
    }
    Ok(())
}

/// Returns the id and the range of each section of a module or component.
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
