// Command named runs h2spec, unchanged, against a server whose name leads to an address that is told here.
//
// The suite writes into :authority whatever it connects to, and an inbound listener serves its own service's name alone.
// No such name is in any machine's DNS, so this answers the lookup; the cases, their timeouts and their verdicts are h2spec's.
package main

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/summerwind/h2spec"
	"github.com/summerwind/h2spec/config"
	"golang.org/x/net/dns/dnsmessage"
)

func main() {
	host := flag.String("host", "", "the name to ask for, which becomes the authority")
	address := flag.String("address", "127.0.0.1", "the IPv4 address to which the name leads")
	port := flag.Int("port", 0, "the port")
	path := flag.String("path", "/", "the path to ask for")
	junit := flag.String("junit-report", "", "where to write a report; none by default")
	timeout := flag.Int("timeout", 2, "seconds that a case may take")
	flag.Parse()

	to := net.ParseIP(*address).To4()
	if *host == "" || *port == 0 || to == nil {
		fmt.Fprintln(os.Stderr, "Cannot run: -host, -port and an IPv4 -address were wanted")
		os.Exit(2)
	}
	net.DefaultResolver = &net.Resolver{
		PreferGo: true,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go answer(ours, [4]byte{to[0], to[1], to[2], to[3]})
			return theirs, nil
		},
	}
	passed, err := h2spec.Run(&config.Config{
		Host:         *host,
		Port:         *port,
		Path:         *path,
		Timeout:      time.Duration(*timeout) * time.Second,
		MaxHeaderLen: 4000,
		JUnitReport:  *junit,
		Strict:       true,
		TLS:          true,
		Insecure:     true,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
	}
	if err != nil || !passed {
		os.Exit(1)
	}
}

// answer says of every name that it has this one address (RFC 1035, 4.2.2: over a stream, each message behind its length).
func answer(conn net.Conn, address [4]byte) {
	defer conn.Close()
	for {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		var message dnsmessage.Message
		if err := message.Unpack(query); err != nil || len(message.Questions) != 1 {
			return
		}
		asked := message.Questions[0]
		reply := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: message.ID, Response: true, RecursionAvailable: true},
			Questions: message.Questions,
		}
		if asked.Type == dnsmessage.TypeA {
			head := dnsmessage.ResourceHeader{Name: asked.Name, Type: asked.Type, Class: asked.Class, TTL: 60}
			reply.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AResource{A: address}}}
		}
		packed, err := reply.Pack()
		if err != nil {
			return
		}
		framed := append([]byte{byte(len(packed) >> 8), byte(len(packed))}, packed...)
		if _, err := conn.Write(framed); err != nil {
			return
		}
	}
}
