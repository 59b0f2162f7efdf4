// A MongoDB-protocol server for the tests: FerretDB 1.24 on its SQLite backend.
//
//	ferretdb FOLDER [ADDRESS]
//
// keeps its databases in FOLDER, prints "listening HOST:PORT" and runs until its standard input ends, so that it never
// outlives the tests that started it.
//
// MongoDB changes a document atomically. FerretDB 1 reads it, filters, and then writes, and a second client may come in
// between. So commands that change documents pass one at a time here; everything else passes as it comes.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/FerretDB/FerretDB/ferretdb"
)

const (
	headBytes = 16 // length, request, response to, code: 32 bits each, little endian
	maxBytes  = 64 << 20
	opMsg     = 2013
	nameAt    = headBytes + 4 + 1 + 4 + 1 // behind the flags, the section's kind, the document's length, a type
)

var writing sync.Mutex

func main() {
	folder, address := os.Args[1], "127.0.0.1:0"
	if len(os.Args) > 2 {
		address = os.Args[2]
	}
	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: "127.0.0.1:0"},
		Logger:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Handler:   "sqlite",
		SQLiteURL: "file:" + folder + "/",
	})
	must(err)
	go func() { log.Fatal(server.Run(context.Background())) }()
	behind, err := url.Parse(server.MongoDBURI())
	must(err)
	front, err := net.Listen("tcp", address)
	must(err)
	go accept(front, behind.Host)
	fmt.Println("listening", front.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func accept(front net.Listener, behind string) {
	for {
		client, err := front.Accept()
		must(err)
		server, err := net.Dial("tcp", behind)
		must(err)
		go pass(client, server)
	}
}

// pass hands requests to the server and its answers back, until either side hangs up.
func pass(client, server net.Conn) {
	defer client.Close()
	defer server.Close()
	for {
		request, err := message(client)
		if err != nil {
			return
		}
		answer, err := ask(server, request)
		if err != nil {
			return
		}
		if _, err = client.Write(answer); err != nil {
			return
		}
	}
}

func ask(server net.Conn, request []byte) ([]byte, error) {
	switch command(request) {
	case "insert", "update", "delete", "findandmodify":
		writing.Lock()
		defer writing.Unlock()
	}
	if _, err := server.Write(request); err != nil {
		return nil, err
	}
	return message(server)
}

// message reads one whole message of the wire protocol.
func message(from io.Reader) ([]byte, error) {
	head := make([]byte, headBytes)
	if _, err := io.ReadFull(from, head); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(head)
	if size < headBytes || size > maxBytes {
		return nil, errors.New("no message of the wire protocol")
	}
	whole := append(head, make([]byte, size-headBytes)...)
	_, err := io.ReadFull(from, whole[headBytes:])
	return whole, err
}

// command is the name of the command a message carries: that of the first element of its document.
func command(request []byte) string {
	if binary.LittleEndian.Uint32(request[12:]) != opMsg || len(request) < nameAt {
		return ""
	}
	name, _, _ := strings.Cut(string(request[nameAt:min(len(request), nameAt+32)]), "\x00")
	return strings.ToLower(name)
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
