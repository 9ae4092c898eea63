#!/usr/bin/env node
// Usage: worker.js PORT FUNCTION LOG
// npm's gearman: a job is {"n": NUMBER, "how": HOW}; what is not JSON fails.
// LOG gets a line per job: its payload in base64, and how.
'use strict'
const fs = require('fs')
const gearman = require('gearman')

const [port, name, log] = process.argv.slice(2)
const worker = gearman('127.0.0.1', port)

function decoded (payload) {
  try {
    return JSON.parse(payload)
  } catch (error) {
    return { how: 'undecodable' }
  }
}

worker.on('JOB_ASSIGN', job => {
  const given = decoded(job.payload)
  const how = given.how || 'ok'
  fs.appendFileSync(log, `${job.payload.toString('base64')} ${how}\n`)
  if (how === 'raise') {
    worker.sendWorkException(job.handle, 'no luck')
  } else if (how === 'fail' || how === 'undecodable') {
    worker.sendWorkFail(job.handle)
  } else {
    if (how === 'progress') worker.sendWorkStatus(job.handle, '1', '2')
    worker.sendWorkComplete(job.handle, `done ${given.n}`)
  }
  worker.grabJob()
})
worker.on('NO_JOB', () => worker.preSleep())
worker.on('NOOP', () => worker.grabJob())
worker.on('error', () => process.exit(1))
worker.connect(() => {
  worker.addFunction(name)
  worker.grabJob()
})
