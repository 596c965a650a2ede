package fuse

import (
	"bytes"
	"testing"
	"time"
)

func TestDirBufferGolden(t *testing.T) {
	var d DirBuffer
	d.Reset(1000)
	if !d.Empty() || d.Room() != 1000 {
		t.Fatalf("Empty, Room() = %v, %d; want true, 1000", d.Empty(), d.Room())
	}
	if !d.Add(0x0102, 0x0304, 4, []byte("ab")) {
		t.Fatal("Add() = false; want true")
	}
	want := []byte{
		2, 1, 0, 0, 0, 0, 0, 0, // ino
		4, 3, 0, 0, 0, 0, 0, 0, // off
		2, 0, 0, 0, // namelen
		4, 0, 0, 0, // type: DT_DIR
		'a', 'b', 0, 0, 0, 0, 0, 0, // name, padded
	}
	if !bytes.Equal(d.Bytes(), want) {
		t.Errorf("Bytes() = %v; want %v", d.Bytes(), want)
	}
	if d.Empty() || d.Room() != 1000-32 {
		t.Errorf("Empty, Room() = %v, %d; want false, 968", d.Empty(), d.Room())
	}
}

func TestDirBufferPlus(t *testing.T) {
	var d DirBuffer
	d.Reset(1000)
	e := Entry{Node: 7, Generation: 3, EntryValid: time.Second, AttrValid: 2 * time.Second, Attr: Attr{Ino: 9, Mode: 0o100644}}
	d.AddPlus(&e, 9, 1, 8, []byte("12345678"))
	d.AddPlus(nil, 5, 2, 4, []byte("."))
	e.Node = 0
	d.AddPlus(&e, 6, 3, 8, []byte("gone"))
	b := d.Bytes()
	for _, want := range []EntryOut{
		{Node: 7, Generation: 3, EntryValid: 1, AttrValid: 2, Attr: e.Attr},
		{Attr: Attr{Ino: 5, Mode: 0o040000}},
		{Attr: Attr{Ino: 6, Mode: 0o100000}},
	} {
		var got EntryOut
		var head Dirent
		got, b, _ = take[EntryOut](b)
		if got != want {
			t.Errorf("entry = %+v; want %+v", got, want)
		}
		head, b, _ = take[Dirent](b)
		b = b[(head.Namelen+7)&^7:]
	}
	if len(b) != 0 {
		t.Errorf("%d bytes are left; want none", len(b))
	}
}

func TestDirBufferRoom(t *testing.T) {
	name := make([]byte, 255)
	for _, test := range []struct {
		name string
		room int
		plus bool
		want bool
	}{
		{"H139 255 bytes in 280", 280, false, true},
		{"H139 255 bytes in 279", 279, false, false},
		{"plus in 408", 408, true, true},
		{"plus in 407", 407, true, false},
		{"nothing", 0, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var d DirBuffer
			d.Reset(test.room)
			if got := d.Fits(len(name), test.plus); got != test.want {
				t.Errorf("Fits() = %v; want %v", got, test.want)
			}
			add := d.Add
			if test.plus {
				add = func(ino, off uint64, typ uint8, name []byte) bool { return d.AddPlus(nil, ino, off, typ, name) }
			}
			if got := add(1, 1, 8, name); got != test.want {
				t.Errorf("Add() = %v; want %v", got, test.want)
			}
			if got := len(d.Bytes()) > 0; got != test.want || len(d.Bytes()) > test.room {
				t.Errorf("%d bytes were added to room for %d; want some: %v", len(d.Bytes()), test.room, test.want)
			}
		})
	}
}
