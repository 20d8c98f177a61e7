//! Inserts checks of the stop word into the guest's code, so that nothing in it can run forever.
//!
//! Code that never ends, or takes exponential time, repeatedly passes the head of a loop or a cycle of calls. A cycle
//! of direct calls lies within one core module, because a module can only import functions from modules that were
//! instantiated earlier. Every other cycle contains a call through a table. So there is a check
//! - at the head of each loop,
//! - before each call through a table,
//! - at the entry of one function of each cycle of direct calls.

use std::collections::BTreeSet;

use wasmparser::{BinaryReader, CodeSectionReader, FunctionBody, Operator};

use super::{Result, put_leb};

/// Returns the code section with `if *stop_word { unreachable }` inserted wherever it is needed.
pub fn with_checks(code: &[u8], imported_functions: u32, stop_word: u32) -> Result<Vec<u8>> {
    let mut check = vec![0x41]; // i32.const
    put_leb(&mut check, u64::from(stop_word));
    check.extend([0x28, 2, 0, 0x04, 0x40, 0x00, 0x0b]); // i32.load; if; unreachable; end

    let bodies = bodies(code)?;
    let recursive = one_of_each_cycle(&direct_calls(&bodies, imported_functions)?);
    let mut out = Vec::with_capacity(code.len() + code.len() / 16);
    put_leb(&mut out, bodies.len() as u64);
    for (index, body) in bodies.iter().enumerate() {
        let range = body.range();
        let mut operators = body.get_operators_reader()?;
        let mut rewritten = Vec::with_capacity(range.len() + 256);
        let mut copied = range.start;
        let mut insert_at = |position: usize| {
            rewritten.extend_from_slice(&code[copied..position]);
            rewritten.extend_from_slice(&check);
            copied = position;
        };
        if recursive.contains(&index) {
            insert_at(operators.original_position());
        }
        while !operators.eof() {
            let before = operators.original_position();
            match operators.read()? {
                Operator::Loop { .. } => insert_at(operators.original_position()),
                Operator::CallIndirect { .. }
                | Operator::ReturnCallIndirect { .. }
                | Operator::CallRef { .. }
                | Operator::ReturnCallRef { .. } => insert_at(before),
                _ => {}
            }
        }
        rewritten.extend_from_slice(&code[copied..range.end]);
        put_leb(&mut out, rewritten.len() as u64);
        out.extend(rewritten);
    }
    Ok(out)
}

/// Checks that a code section without stop checks cannot run forever by itself. A module without memory cannot read
/// the stop word. Calls through a table are allowed, because componentize-py's table of host functions is such a
/// module.
pub fn check_terminates(code: &[u8], imported_functions: u32) -> Result<()> {
    let bodies = bodies(code)?;
    for body in &bodies {
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            if let Operator::Loop { .. } = operators.read()? {
                return Err("a module without memory has a loop, which could not be stopped".into());
            }
        }
    }
    if !one_of_each_cycle(&direct_calls(&bodies, imported_functions)?).is_empty() {
        return Err("a module without memory has a recursive function, which could not be stopped".into());
    }
    Ok(())
}

fn bodies(code: &[u8]) -> Result<Vec<FunctionBody<'_>>> {
    Ok(CodeSectionReader::new(BinaryReader::new(code, 0))?.into_iter().collect::<std::result::Result<_, _>>()?)
}

/// Returns, for each function, the functions of the same module that it calls directly, by index without imports.
fn direct_calls(bodies: &[FunctionBody<'_>], imported_functions: u32) -> Result<Vec<BTreeSet<usize>>> {
    let mut found = Vec::with_capacity(bodies.len());
    for body in bodies {
        let mut callees = BTreeSet::new();
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            if let Operator::Call { function_index } | Operator::ReturnCall { function_index } = operators.read()? {
                callees.extend(function_index.checked_sub(imported_functions).map(|index| index as usize));
            }
        }
        found.push(callees);
    }
    Ok(found)
}

/// Returns the targets of the back edges of a depth-first search. Each cycle of calls contains one.
fn one_of_each_cycle(calls: &[BTreeSet<usize>]) -> BTreeSet<usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum Visit {
        None,
        Active,
        Done,
    }
    let mut targets = BTreeSet::new();
    let mut visits = vec![Visit::None; calls.len()];
    for root in 0..calls.len() {
        if visits[root] != Visit::None {
            continue;
        }
        visits[root] = Visit::Active;
        let mut path = vec![(root, calls[root].iter())];
        while let Some((function, callees)) = path.last_mut() {
            match callees.next() {
                None => {
                    visits[*function] = Visit::Done;
                    path.pop();
                }
                Some(&callee) => match visits[callee] {
                    Visit::Active => {
                        targets.insert(callee);
                    }
                    Visit::Done => {}
                    Visit::None => {
                        visits[callee] = Visit::Active;
                        path.push((callee, calls[callee].iter()));
                    }
                },
            }
        }
    }
    targets
}
