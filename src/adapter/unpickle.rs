//! The pickle inside a torch checkpoint, read as what it describes and never executed.
//!
//! A pickle is a program for a stack machine that may name any function of Python and call it. This machine knows
//! the names a state dict needs: `OrderedDict`, the two functions that wrap a storage into a tensor, and the
//! storage types; every other name is an error that says it. Calling one of the known names builds a description of
//! a strided view (storage, offset, shape, strides): no bytes of tensors are touched here.
//!
//! Values are indices into arenas, so that no input can nest deeper than the machine can drop or make a cycle that is
//! never freed; each instruction makes at most one value, so memory is bounded by the length of the pickle.
//! Instructions that torch does not write (`INST`, `OBJ`, `NEWOBJ`, `EXT`...) are not known at all.

use std::collections::BTreeMap;

/// The longest pickle that is read; an encoder's whole state dict takes about 50 KB.
const MAX_PICKLE: usize = 8 << 20;
/// More dimensions than any weight has.
const MAX_DIMENSIONS: usize = 8;
/// The longest text; names of tensors are shorter still.
const MAX_TEXT: usize = 4096;
/// The longest key of a storage; torch numbers them.
const MAX_KEY: usize = 64;
/// The most arguments of a call. What is memoised can be called with again, so it must be cheap to look at.
const MAX_ARGUMENTS: usize = 8;

/// A tensor as the pickle describes it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Strided {
    /// The storage's entry in the archive.
    pub(super) storage: String,
    /// The storage's element type, as in `torch.FloatStorage`: `Float`.
    pub(super) kind: &'static str,
    /// Elements of the storage.
    pub(super) elements: usize,
    /// The first element.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Elements from one index to the next, for each dimension.
    pub(super) strides: Vec<usize>,
}

/// Types of storage by name.
const STORAGES: [&str; 10] = [
    "Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool",
];

/// The tensors of a pickled state dict, by name.
pub(super) fn state_dict(pickle: &[u8]) -> Result<BTreeMap<String, Strided>, String> {
    if pickle.len() > MAX_PICKLE {
        return Err(format!(
            "a pickle of {} bytes, and at most {MAX_PICKLE} are read",
            pickle.len()
        ));
    }
    let mut machine = Machine {
        input: pickle,
        ..Machine::default()
    };
    let Value::Dict(top) = machine.run()? else {
        return Err("the pickle is not a dictionary of tensors".into());
    };
    let mut tensors = BTreeMap::new();
    for (key, value) in &machine.dicts[top] {
        let Value::Text(name) = key else {
            return Err("the pickled dictionary has a key that is not text".into());
        };
        let name = &machine.texts[*name];
        let Value::Tensor(tensor) = value else {
            return Err(format!("the pickled entry {name:?} is not a tensor"));
        };
        if tensors
            .insert(name.clone(), machine.tensors[*tensor].clone())
            .is_some()
        {
            return Err(format!("the pickled entry {name:?} stands twice"));
        }
    }
    Ok(tensors)
}

/// What stands on the stack; numbers index the machine's arenas.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    Text(usize),
    Tuple(usize),
    List,
    Dict(usize),
    Known(Known),
    Storage(usize),
    Tensor(usize),
}

/// The names a pickle may mention.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Known {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    StorageType(&'static str),
}

#[derive(Debug, Default)]
struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack where a mark was set.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Value>,
    texts: Vec<String>,
    tuples: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    /// Entry, type, elements.
    storages: Vec<(String, &'static str, usize)>,
    tensors: Vec<Strided>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value, String> {
        loop {
            let at = self.at;
            let code = self.take(1)?[0];
            if code == b'.' {
                return self.pop();
            }
            self.step(code)
                .map_err(|e| format!("{e} (byte {at} of the pickle)"))?;
        }
    }

    /// One instruction; the letters are those of Python's `pickletools`.
    fn step(&mut self, code: u8) -> Result<(), String> {
        match code {
            0x80 => drop(self.take(1)?), // PROTO
            0x95 => drop(self.take(8)?), // FRAME
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool),
            b'J' => {
                let n = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(n.into()));
            }
            b'K' => {
                let n = self.take(1)?[0];
                self.stack.push(Value::Int(n.into()));
            }
            b'M' => {
                let n = u16::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(n.into()));
            }
            0x8a => self.long()?,
            b'G' => {
                self.take(8)?;
                self.stack.push(Value::Float);
            }
            b'X' => {
                let length = u32::from_le_bytes(self.array()?);
                self.text(length as usize)?;
            }
            0x8c => {
                let length = self.take(1)?[0];
                self.text(length.into())?;
            }
            b')' => self.tuple(0)?,
            0x85..=0x87 => self.tuple(usize::from(code - 0x84))?,
            b't' => {
                let items = self.above_mark()?;
                self.push_tuple(items);
            }
            b']' => self.stack.push(Value::List),
            b'a' => {
                self.pop()?;
                self.expect_list()?;
            }
            b'e' => {
                self.above_mark()?;
                self.expect_list()?;
            }
            b'}' => self.push_dict(),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.above_mark()?;
                self.set_items(&items)?;
            }
            b'q' => {
                let slot = self.take(1)?[0];
                self.remember(slot.into())?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.remember(slot)?;
            }
            0x94 => {
                let slot = self.memo.len() as u32;
                self.remember(slot)?;
            }
            b'h' => {
                let slot = self.take(1)?[0];
                self.recall(slot.into())?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.recall(slot)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.name(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                self.name(&module, &name)?;
            }
            b'Q' => self.persistent()?,
            b'R' => self.call()?,
            b'b' => self.set_state()?,
            other => {
                let shown = if other.is_ascii_graphic() {
                    format!("{:?}", other as char)
                } else {
                    format!("{other:#04x}")
                };
                return Err(format!(
                    "the pickle uses the instruction {shown}, which no state dict needs"
                ));
            }
        }
        Ok(())
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let rest = &self.input[self.at..];
        let taken = rest.get(..n).ok_or("the pickle is cut short")?;
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self
            .take(N)?
            .try_into()
            .expect("take gives as many bytes as were asked for"))
    }

    /// A line of a GLOBAL instruction.
    fn line(&mut self) -> Result<String, String> {
        let rest = &self.input[self.at..];
        let length = rest
            .iter()
            .position(|b| *b == b'\n')
            .ok_or("the pickle is cut short")?;
        let line = self.take(length + 1)?;
        Ok(String::from_utf8_lossy(&line[..length]).into_owned())
    }

    fn text(&mut self, length: usize) -> Result<(), String> {
        if length > MAX_TEXT {
            return Err(format!(
                "a text of {length} bytes, and at most {MAX_TEXT} are read"
            ));
        }
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "text that is not UTF-8")?;
        self.texts.push(text.to_owned());
        self.stack.push(Value::Text(self.texts.len() - 1));
        Ok(())
    }

    fn long(&mut self) -> Result<(), String> {
        let length = usize::from(self.take(1)?[0]);
        let bytes = self.take(length)?;
        if length > 8 {
            return Err(format!("a number of {length} bytes"));
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..length].copy_from_slice(bytes);
        self.stack.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    /// The top of the stack; what lies under a mark cannot be reached before the mark is gone.
    fn pop(&mut self) -> Result<Value, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the pickle takes more from its stack than it put there".into());
        }
        self.stack
            .pop()
            .ok_or_else(|| "the pickle's stack is empty".into())
    }

    fn pop_text(&mut self) -> Result<String, String> {
        match self.pop()? {
            Value::Text(i) => Ok(self.texts[i].clone()),
            _ => Err("expected text on the pickle's stack".into()),
        }
    }

    fn above_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self
            .marks
            .pop()
            .ok_or("the pickle uses a mark it did not set")?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, n: usize) -> Result<(), String> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push_tuple(items);
        Ok(())
    }

    fn push_tuple(&mut self, items: Vec<Value>) {
        self.tuples.push(items);
        self.stack.push(Value::Tuple(self.tuples.len() - 1));
    }

    fn push_dict(&mut self) {
        self.dicts.push(Vec::new());
        self.stack.push(Value::Dict(self.dicts.len() - 1));
    }

    /// Lists occur in what is passed over (hooks, metadata); their items are not kept.
    fn expect_list(&mut self) -> Result<(), String> {
        match self.pop()? {
            list @ Value::List => self.stack.push(list),
            _ => return Err("the pickle appends to what is not a list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Value]) -> Result<(), String> {
        let Value::Dict(dict) = self.pop()? else {
            return Err("the pickle sets an entry of what is not a dictionary".into());
        };
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("the pickle sets a key without a value".into());
        }
        self.dicts[dict].extend(pairs.iter().map(|[k, v]| (*k, *v)));
        self.stack.push(Value::Dict(dict));
        Ok(())
    }

    fn remember(&mut self, slot: u32) -> Result<(), String> {
        let value = self.pop()?;
        self.stack.push(value);
        self.memo.insert(slot, value);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), String> {
        let value = self
            .memo
            .get(&slot)
            .ok_or("the pickle recalls what it never kept")?;
        self.stack.push(*value);
        Ok(())
    }

    /// A name becomes a value only if it is one of those a state dict needs.
    fn name(&mut self, module: &str, name: &str) -> Result<(), String> {
        let storage = || {
            let kind = name.strip_suffix("Storage").filter(|_| module == "torch")?;
            STORAGES
                .into_iter()
                .find(|s| *s == kind)
                .map(Known::StorageType)
        };
        let known = match (module, name) {
            ("collections", "OrderedDict") => Some(Known::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Known::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Known::RebuildParameter),
            _ => storage(),
        };
        let known = known.ok_or_else(|| {
            let full: String = format!("{module}.{name}").chars().take(120).collect();
            format!("the pickle names {full:?}; a state dict is made of tensors, and nothing else is built or run")
        })?;
        self.stack.push(Value::Known(known));
        Ok(())
    }

    /// `("storage", type, key, device, elements)`: an entry of the archive.
    fn persistent(&mut self) -> Result<(), String> {
        let odd = || "the pickle refers to something that is not a storage".to_owned();
        let Value::Tuple(id) = self.pop()? else {
            return Err(odd());
        };
        let &[
            Value::Text(tag),
            Value::Known(Known::StorageType(kind)),
            Value::Text(key),
            _,
            Value::Int(n),
        ] = self.tuples[id].as_slice()
        else {
            return Err(odd());
        };
        if self.texts[tag] != "storage" || self.texts[key].len() > MAX_KEY {
            return Err(odd());
        }
        let elements = usize::try_from(n).map_err(|_| odd())?;
        self.storages
            .push((self.texts[key].clone(), kind, elements));
        self.stack.push(Value::Storage(self.storages.len() - 1));
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let arguments = match self.pop()? {
            Value::Tuple(i) if self.tuples[i].len() <= MAX_ARGUMENTS => self.tuples[i].clone(),
            _ => return Err("the pickle calls without arguments, or with too many".into()),
        };
        match (self.pop()?, arguments.as_slice()) {
            (Value::Known(Known::OrderedDict), []) => self.push_dict(),
            (Value::Known(Known::RebuildParameter), [Value::Tensor(tensor), _, _]) => {
                self.stack.push(Value::Tensor(*tensor));
            }
            (
                Value::Known(Known::RebuildTensor),
                &[
                    Value::Storage(storage),
                    Value::Int(offset),
                    Value::Tuple(shape),
                    Value::Tuple(strides),
                    _,
                    _,
                    ..,
                ],
            ) => self.tensor(storage, offset, shape, strides)?,
            (Value::Known(known), _) => {
                return Err(format!("{known:?} with arguments of another kind"));
            }
            _ => return Err("the pickle calls what is not a function".into()),
        }
        Ok(())
    }

    fn tensor(
        &mut self,
        storage: usize,
        offset: i64,
        shape: usize,
        strides: usize,
    ) -> Result<(), String> {
        let numbers = |tuple: usize| -> Option<Vec<usize>> {
            let number = |v: &Value| match v {
                Value::Int(n) => usize::try_from(*n).ok(),
                _ => None,
            };
            let items = self.tuples[tuple].iter();
            items.map(number).take(MAX_DIMENSIONS + 1).collect()
        };
        let odd = || "a tensor whose shape, strides or offset are not whole numbers".to_owned();
        let (shape, strides) = (
            numbers(shape).ok_or_else(odd)?,
            numbers(strides).ok_or_else(odd)?,
        );
        let offset = usize::try_from(offset).map_err(|_| odd())?;
        if shape.len() != strides.len() || shape.len() > MAX_DIMENSIONS {
            return Err(format!(
                "a tensor of shape {shape:?} with strides {strides:?}"
            ));
        }
        let (storage, kind, elements) = self.storages[storage].clone();
        self.tensors.push(Strided {
            storage,
            kind,
            elements,
            offset,
            shape,
            strides,
        });
        self.stack.push(Value::Tensor(self.tensors.len() - 1));
        Ok(())
    }

    /// Attributes of a dictionary (`_metadata`, the versions of its modules) say nothing about tensors.
    fn set_state(&mut self) -> Result<(), String> {
        self.pop()?;
        match self.pop()? {
            dict @ Value::Dict(_) => self.stack.push(dict),
            _ => return Err("the pickle sets the state of what is not a dictionary".into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
