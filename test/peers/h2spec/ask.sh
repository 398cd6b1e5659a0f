#!/bin/sh
# What h2specd starts for each of its cases: tells the hop's client, which runs beside (judge-client.ts), whom to ask.
exec curl -sS --max-time 10 --data "$2" "$1"
