#!/usr/bin/env node
// Usage: client.js PORT FUNCTION bg|fg <JOBS
// npm's gearman: a line is UNIQUE TAB PAYLOAD, the unique may be empty; fg prints how each job ends.
'use strict'
const gearman = require('gearman')

const [port, name, mode] = process.argv.slice(2)
const lines = require('fs').readFileSync(0, 'utf8').split('\n').filter(Boolean)
const client = gearman('127.0.0.1', port)

function next () {
  if (!lines.length) return client.close()
  const [unique, payload] = lines.shift().split('\t')
  client.submitJob(name, payload, { unique_id: unique, background: mode === 'bg' })
}

function ended (text) {
  console.log(text)
  next()
}

client.on('JOB_CREATED', () => mode === 'bg' && next())
client.on('WORK_STATUS', job => console.log(`status ${job.percent_num} ${job.percent_den}`))
client.on('WORK_COMPLETE', job => ended(`complete ${job.payload}`))
client.on('WORK_FAIL', () => ended('fail'))
client.on('error', error => { console.error(error); process.exit(1) })
client.connect(next)
