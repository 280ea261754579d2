// Oracle says what the published grammar of line protocol makes of a line.
//
// It reads requests from standard input and writes one answer to each to standard output,
// both framed by a length of four bytes, big endian. A request is one line without its
// newline, timed in nanoseconds. An answer begins with '+' for a line that the decoder takes,
// followed by its parts, or with '-' for one that it refuses, followed by the reason.
//
// Parts are framed by lengths in the same way: measurement, number of tags (decimal), key and
// value of each tag, number of fields, key and kind of each field and its value, and the time
// (empty for none).
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/influxdata/line-protocol/v2/lineprotocol"
)

var errMoreThanOneLine = errors.New("more than one line")

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := bufio.NewWriterSize(os.Stdout, 1<<20)
	for {
		line, err := readFrame(in)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			panic(err)
		}
		out.Write(frame(nil, answer(line)))
		if in.Buffered() == 0 {
			out.Flush()
		}
	}
	out.Flush()
}

func readFrame(in io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(in, size[:]); err != nil {
		return nil, err
	}
	data := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(in, data)
	return data, err
}

func frame(out, data []byte) []byte {
	out = binary.BigEndian.AppendUint32(out, uint32(len(data)))
	return append(out, data...)
}

func answer(line []byte) []byte {
	parts, err := decode(line)
	if err != nil {
		return append([]byte{'-'}, err.Error()...)
	}
	return append([]byte{'+'}, parts...)
}

func decode(line []byte) ([]byte, error) {
	decoder := lineprotocol.NewDecoderWithBytes(line)
	if !decoder.Next() {
		return nil, errors.New("no line")
	}
	measurement, err := decoder.Measurement()
	if err != nil {
		return nil, err
	}
	parts := frame(nil, measurement)
	var tags []byte
	count := 0
	for {
		key, value, err := decoder.NextTag()
		if err != nil {
			return nil, err
		}
		if key == nil {
			break
		}
		tags = frame(frame(tags, key), value)
		count++
	}
	parts = append(frame(parts, []byte(strconv.Itoa(count))), tags...)
	var fields []byte
	count = 0
	for {
		key, value, err := decoder.NextField()
		if err != nil {
			return nil, err
		}
		if key == nil {
			break
		}
		fields = frame(frame(frame(fields, key), []byte(value.Kind().String())), text(value))
		count++
	}
	parts = append(frame(parts, []byte(strconv.Itoa(count))), fields...)
	stamp, err := decoder.Time(lineprotocol.Nanosecond, time.Time{})
	if err != nil {
		return nil, err
	}
	when := ""
	if !stamp.IsZero() {
		when = strconv.FormatInt(stamp.UnixNano(), 10)
	}
	if decoder.Next() {
		return nil, errMoreThanOneLine
	}
	return frame(parts, []byte(when)), nil
}

// text is the value as bytes; floats exactly, in hexadecimal.
func text(value lineprotocol.Value) []byte {
	switch value.Kind() {
	case lineprotocol.String:
		return value.BytesV()
	case lineprotocol.Float:
		return strconv.AppendFloat(nil, value.FloatV(), 'x', -1, 64)
	case lineprotocol.Int:
		return strconv.AppendInt(nil, value.IntV(), 10)
	case lineprotocol.Uint:
		return strconv.AppendUint(nil, value.UintV(), 10)
	default:
		return strconv.AppendBool(nil, value.BoolV())
	}
}
