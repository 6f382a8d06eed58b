//! Rows of a Parquet file: columns of strings, numbers, booleans, and lists of them. A row's number stands where other
//! files have a line.

use std::{fs::File, path::Path};

use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
};
use serde_json::{Map, Value};

use super::{At, Columns, Row, tables::of_object};
use crate::error::{Error, Result};

pub(super) fn rows(path: &Path, columns: &Columns, at: At<'_>) -> Result<Vec<Row>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let broken = |e: parquet::errors::ParquetError| Error::format(path, e.to_string());
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let mut rows = Vec::new();
    for (i, row) in reader.get_row_iter(None).map_err(broken)?.enumerate() {
        let row = row.map_err(|e| at(i + 1, e.to_string()))?;
        let object: Map<String, Value> = row
            .get_column_iter()
            .filter(|(name, _)| columns.names().any(|n| n == name.as_str()))
            .map(|(name, field)| (name.clone(), value(field)))
            .collect();
        rows.push(of_object(&object, i + 1, columns, at)?);
    }
    Ok(rows)
}

/// What a field holds; nothing for what is neither a text, a number nor a list.
fn value(field: &Field) -> Value {
    match field {
        Field::Str(s) => s.as_str().into(),
        Field::Bool(b) => (*b).into(),
        Field::Byte(n) => (*n).into(),
        Field::Short(n) => (*n).into(),
        Field::Int(n) => (*n).into(),
        Field::Long(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::ULong(n) => (*n).into(),
        Field::Float(x) => (*x).into(),
        Field::Double(x) => (*x).into(),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::{
        basic::Compression,
        data_type::{ByteArray, ByteArrayType, Int64Type},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };

    use super::*;

    fn written(path: &Path, compression: Compression) {
        let schema = "message rows { required binary text (UTF8); optional int64 label; }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .build();
        let file = File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, properties.into()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let texts: Vec<ByteArray> = ["a", "é, \"b\"\n", "c"].map(ByteArray::from).into();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&texts, None, None)
            .unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        // The third label is null.
        let levels = [1, 1, 0];
        column
            .typed::<Int64Type>()
            .write_batch(&[0, 12], Some(&levels), None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn rows_are_read_and_a_bad_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.parquet");
        let columns = |label: &str| Columns {
            text: "text".into(),
            pair: None,
            label: label.into(),
            tags: false,
        };
        let at = |line: usize, why: String| Error::Row {
            source_name: "x.parquet".into(),
            line,
            why,
        };
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY] {
            written(&path, compression);
            let error = rows(&path, &columns("label"), &at).unwrap_err().to_string();
            assert_eq!(error, "x.parquet:3: \"label\" is null");
            let rows = rows(&path, &columns("text"), &at).unwrap();
            assert_eq!(rows[1].text, "é, \"b\"\n");
            assert_eq!((rows.len(), rows[2].line), (3, 3));
        }
        let error = rows(&path, &columns("y"), &at).unwrap_err().to_string();
        assert!(error.contains("no key \"y\""), "{error}");
        std::fs::write(&path, b"PAR1 and nothing").unwrap();
        assert!(rows(&path, &columns("label"), &at).is_err());
    }
}
