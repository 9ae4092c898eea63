# Completions of gearmang's tools for fish: written by completions/generate, do not edit.

# Each tool's file in the folder of fish is this one.
set -q __gearmang_completions; and exit
set -g __gearmang_completions 1

# Ask the tool for names: a candidate, a tab, what it is.
function __gearmang_ask
    set -l words (commandline -opc)
    set -l tool (string replace -r '.*/' '' -- $words[1])
    env GM_COMPLETE="$argv[1] "(commandline -ct | string replace -r '^--?[^=]*=' '' | string unescape) \
        $tool $words[2..-1] 2>/dev/null </dev/null
end

# How many operands stand before the cursor; the arguments are the options that take a value.
function __gearmang_operands
    set -l count 0
    set -l skip 0
    set -l dashes 0
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
        else if test $dashes = 0; and test "x$word" = x--
            set dashes 1
        else if test $dashes = 0 && string match -qr -- '^-.' "$word"
            contains -- "$word" $argv && set skip 1
        else
            set count (math $count + 1)
        end
    end
    echo $count
end

# The command behind gm-work's function, as a command line of its own.
function __gearmang_command
    set -l words (commandline -opc) (commandline -ct)
    set -l count $argv[1]
    complete -C (string join ' ' -- (string escape -- $words[(math (count $words) - $count)..-1]))
end

complete -c gm-at -f
complete -c gm-at -s 0 -l null -d 'payloads end in NUL'
complete -c gm-at -s u -l unique -x -a '(__gearmang_ask KEY)' -d 'unique of the only job'
complete -c gm-at -l unique-data -d 'uniques are digests of the payload'
complete -c gm-at -l priority -x -a 'high normal low' -d 'high, normal or low'
complete -c gm-at -l strict -d 'stop at the first bad line'
complete -c gm-at -l quarantine -r -F -d 'the quarantine file'
complete -c gm-at -s s -l server -x -d 'the servers'
complete -c gm-at -l json -d 'print records on a terminal, too'
complete -c gm-at -s q -l quiet -d 'print no records'
complete -c gm-at -s h -l help -d 'show this'
complete -c gm-at -l version -d 'show the version'
complete -c gm-at -n 'test (__gearmang_operands -u --unique --priority --quarantine -s --server) -eq 1' -a '(__gearmang_ask FUNCTION)'
complete -c gm-at -n 'test (__gearmang_operands -u --unique --priority --quarantine -s --server) -ge 2' -F

complete -c gm-blueox -f
complete -c gm-blueox -s h -l help -d 'show this'
complete -c gm-blueox -l version -d 'show the version'

complete -c gm-bury -f
complete -c gm-bury -l strict -d 'stop at the first bad line'
complete -c gm-bury -l quarantine -r -F -d 'the quarantine file; made if it is missing'
complete -c gm-bury -s q -l quiet -d 'print no records'
complete -c gm-bury -l json -d 'print records, also on a terminal'
complete -c gm-bury -s h -l help -d 'show this'
complete -c gm-bury -l version -d 'show the version'

complete -c gm-check -f
complete -c gm-check -s w -l warning -x -d '10, 10:, ~:10, 10:20 or @10:20; \'\' for no range'
complete -c gm-check -s c -l critical -x -d 'the same'
complete -c gm-check -s f -l function -x -a '(__gearmang_ask GLOB)' -d 'only functions that match'
complete -c gm-check -l exclude -x -a '(__gearmang_ask GLOB)' -d 'but not functions that match'
complete -c gm-check -l window -x -d '(dead) only jobs that died within TIME'
complete -c gm-check -l round-trip -d '(server) also have each server do a job'
complete -c gm-check -s t -l timeout -x -d 'UNKNOWN after this time'
complete -c gm-check -l quarantine -r -F -d 'the quarantine file'
complete -c gm-check -s s -l server -x -d 'the servers'
complete -c gm-check -s h -l help -d 'show this'
complete -c gm-check -l version -d 'show the version'
complete -c gm-check -n 'test (__gearmang_operands -w --warning -c --critical -f --function --exclude --window -t --timeout --quarantine -s --server) -eq 0' -a 'queue workers age dead server'

complete -c gm-collect -f
complete -c gm-collect -l until-empty -d 'exit when no server has a job now'
complete -c gm-collect -l quarantine -r -F -d 'the quarantine file'
complete -c gm-collect -s s -l server -x -d 'the servers'
complete -c gm-collect -s q -l quiet -d 'print no records'
complete -c gm-collect -s h -l help -d 'show this'
complete -c gm-collect -l version -d 'show the version'
complete -c gm-collect -n 'test (__gearmang_operands --quarantine -s --server) -eq 0' -a '(__gearmang_ask FUNCTION)'

complete -c gm-collectd -f
complete -c gm-collectd -l interval -x -d 'from one round to the next ($COLLECTD_INTERVAL, or 10)'
complete -c gm-collectd -l quarantine -r -F -d 'the quarantine file'
complete -c gm-collectd -s s -l server -x -d 'the servers'
complete -c gm-collectd -s h -l help -d 'show this'
complete -c gm-collectd -l version -d 'show the version'

complete -c gm-dead -f
complete -c gm-dead -s f -l function -x -a '(__gearmang_ask GLOB)' -d 'jobs of functions that match'
complete -c gm-dead -s r -l reason -x -a 'error timeout crash lost hung rejected collected drained' -d 'error, timeout, crash, lost, hung, rejected, collected or drained'
complete -c gm-dead -s m -l match -x -d 'jobs whose error matches'
complete -c gm-dead -s u -l unique -x -a '(__gearmang_ask KEY)' -d 'jobs with this unique'
complete -c gm-dead -l fingerprint -x -a '(__gearmang_ask HEX)' -d 'jobs of one cause, as --group shows it'
complete -c gm-dead -l since -x -d 'jobs that last failed then or later'
complete -c gm-dead -l until -x -d 'jobs that last failed then or earlier'
complete -c gm-dead -l after -x -a '(__gearmang_ask ID)' -d 'jobs with an id above this'
complete -c gm-dead -s n -l limit -x -d 'at most N'
complete -c gm-dead -l delayed -d 'delayed jobs instead of dead ones'
complete -c gm-dead -l newest -d 'newest first: -n 5 lists the last five'
complete -c gm-dead -l follow -d 'then print each death as it happens'
complete -c gm-dead -l group -d 'one line per cause, most frequent first'
complete -c gm-dead -l data -d 'print the payload of one ID, byte for byte'
complete -c gm-dead -l json -d 'print JSON lines, also on a terminal'
complete -c gm-dead -l table -d 'print a table, also into a pipe'
complete -c gm-dead -l quarantine -r -F -d 'the quarantine file'
complete -c gm-dead -s h -l help -d 'show this'
complete -c gm-dead -l version -d 'show the version'
complete -c gm-dead -n 'test (__gearmang_operands -f --function -r --reason -m --match -u --unique --fingerprint --since --until --after -n --limit --quarantine) -ge 0' -a '(__gearmang_ask ID)'

complete -c gm-drain -f
complete -c gm-drain -l why -x -d 'keep this text in the history'
complete -c gm-drain -l quarantine -r -F -d 'the quarantine file'
complete -c gm-drain -s s -l server -x -d 'the servers'
complete -c gm-drain -l json -d 'print records on a terminal, too'
complete -c gm-drain -s q -l quiet -d 'print no records'
complete -c gm-drain -s h -l help -d 'show this'
complete -c gm-drain -l version -d 'show the version'
complete -c gm-drain -n 'test (__gearmang_operands --why --quarantine -s --server) -eq 0' -a '(__gearmang_ask FUNCTION)'

complete -c gm-drop -f
complete -c gm-drop -l ids -d 'a line of stdin is an id'
complete -c gm-drop -l why -x -d 'keep this text in the history'
complete -c gm-drop -l strict -d 'stop at the first bad line'
complete -c gm-drop -l quarantine -r -F -d 'the quarantine file'
complete -c gm-drop -s q -l quiet -d 'print no records'
complete -c gm-drop -l json -d 'print records, also on a terminal'
complete -c gm-drop -s h -l help -d 'show this'
complete -c gm-drop -l version -d 'show the version'
complete -c gm-drop -n 'test (__gearmang_operands --why --quarantine) -ge 0' -a '(__gearmang_ask ID)'

complete -c gm-history -f
complete -c gm-history -s f -l function -x -a '(__gearmang_ask GLOB)' -d 'entries of functions that match'
complete -c gm-history -s u -l unique -x -a '(__gearmang_ask KEY)' -d 'entries of jobs with this unique'
complete -c gm-history -l fingerprint -x -a '(__gearmang_ask HEX)' -d 'entries of one cause'
complete -c gm-history -l action -x -a 'requeue drop bury drain at pause resume' -d 'only requeue, drop, bury, drain, at, pause or resume'
complete -c gm-history -l user -x -d 'entries of this user'
complete -c gm-history -l since -x -d 'entries of then or later'
complete -c gm-history -l until -x -d 'entries of then or earlier'
complete -c gm-history -l after -x -d 'entries with a number above this'
complete -c gm-history -s n -l limit -x -d 'at most N'
complete -c gm-history -l newest -d 'newest first: -n 5 lists the last five'
complete -c gm-history -l json -d 'print JSON lines, also on a terminal'
complete -c gm-history -l table -d 'print a table, also into a pipe'
complete -c gm-history -l quarantine -r -F -d 'the quarantine file'
complete -c gm-history -s h -l help -d 'show this'
complete -c gm-history -l version -d 'show the version'
complete -c gm-history -n 'test (__gearmang_operands -f --function -u --unique --fingerprint --action --user --since --until --after -n --limit --quarantine) -ge 0' -a '(__gearmang_ask ID)'

complete -c gm-pause -f
complete -c gm-pause -l until -x -d 'resume then: a DURATION from now, or an ISO 8601 time'
complete -c gm-pause -l why -x -d 'show this reason in gm-status, keep it in the history'
complete -c gm-pause -l quarantine -r -F -d 'the quarantine file'
complete -c gm-pause -s s -l server -x -d 'the servers'
complete -c gm-pause -l json -d 'print records on a terminal, too'
complete -c gm-pause -s q -l quiet -d 'print no records'
complete -c gm-pause -s h -l help -d 'show this'
complete -c gm-pause -l version -d 'show the version'
complete -c gm-pause -n 'test (__gearmang_operands --until --why --quarantine -s --server) -ge 0' -a '(__gearmang_ask FUNCTION)'

complete -c gm-python -f
complete -c gm-python -l setup -x -d 'call this of MODULE before the first job; its result, if not None, is the second argument of CALLABLE'
complete -c gm-python -l teardown -x -d 'call this of MODULE after the last job'
complete -c gm-python -s h -l help -d 'show this'
complete -c gm-python -l version -d 'show the version'

complete -c gm-reap -f
complete -c gm-reap -l older-than -x -d 'workers older than this'
complete -c gm-reap -l job-older-than -x -d 'jobs that have run longer than this'
complete -c gm-reap -l kill -d 'end them, group and all; each job counts an attempt'
complete -c gm-reap -l release -d 'end them; no attempt is counted'
complete -c gm-reap -l grace -x -d 'from TERM to KILL'
complete -c gm-reap -l quarantine -r -F -d 'the quarantine file'
complete -c gm-reap -l json -d 'print JSON lines, also on a terminal'
complete -c gm-reap -l table -d 'print a table, also into a pipe'
complete -c gm-reap -s h -l help -d 'show this'
complete -c gm-reap -l version -d 'show the version'

complete -c gm-requeue -f
complete -c gm-requeue -l edit -d 'take function, priority and data from the record'
complete -c gm-requeue -l ids -d 'a line of stdin is an id'
complete -c gm-requeue -l rate -x -d 'at most N jobs a second'
complete -c gm-requeue -l wait -d 'wait for the results: a job leaves the quarantine only when it is done; exit 1 if any failed'
complete -c gm-requeue -l why -x -d 'keep this text in the history'
complete -c gm-requeue -l strict -d 'stop at the first bad line'
complete -c gm-requeue -l quarantine -r -F -d 'the quarantine file'
complete -c gm-requeue -s s -l server -x -d 'the servers'
complete -c gm-requeue -s q -l quiet -d 'print no records'
complete -c gm-requeue -l json -d 'print records, also on a terminal'
complete -c gm-requeue -s h -l help -d 'show this'
complete -c gm-requeue -l version -d 'show the version'
complete -c gm-requeue -n 'test (__gearmang_operands --rate --why --quarantine -s --server) -ge 0' -a '(__gearmang_ask ID)'

complete -c gm-resume -f
complete -c gm-resume -l why -x -d 'keep this text in the history'
complete -c gm-resume -l quarantine -r -F -d 'the quarantine file'
complete -c gm-resume -l json -d 'print records on a terminal, too'
complete -c gm-resume -s q -l quiet -d 'print no records'
complete -c gm-resume -s h -l help -d 'show this'
complete -c gm-resume -l version -d 'show the version'
complete -c gm-resume -n 'test (__gearmang_operands --why --quarantine) -ge 0' -a '(__gearmang_ask FUNCTION)'

complete -c gm-salvage -f
complete -c gm-salvage -l check -d 'print what is wrong with the file instead; exit 1 if anything'
complete -c gm-salvage -l table -x -d 'the table of the queue'
complete -c gm-salvage -l json -d 'print JSON lines, also on a terminal'
complete -c gm-salvage -s h -l help -d 'show this'
complete -c gm-salvage -l version -d 'show the version'
complete -c gm-salvage -n 'test (__gearmang_operands --table) -eq 0' -F

complete -c gm-server -f
complete -c gm-server -l store -r -F -d 'the store (/var/lib/gearmang/gearmand.db if that directory exists, else ~/.local/state/gearmang/gearmand.db)'
complete -c gm-server -l listen -x -d 'the address to listen on'
complete -c gm-server -l port -x -d 'the port to listen on'
complete -c gm-server -s h -l help -d 'show this'
complete -c gm-server -l version -d 'show the version'

complete -c gm-status -f
complete -c gm-status -s f -l function -x -a '(__gearmang_ask GLOB)' -d 'only functions that match'
complete -c gm-status -l busy -d 'only functions with jobs or trouble'
complete -c gm-status -l every -x -d 'repeat each TIME, with the jobs done and failed meanwhile'
complete -c gm-status -l days -d 'a record per function and day: jobs done, jobs failed'
complete -c gm-status -l by-server -d 'a record per function and server'
complete -c gm-status -l workers -d 'a record per worker, of gearmand and of the file'
complete -c gm-status -l prometheus -d 'print text for the textfile collector of node_exporter'
complete -c gm-status -l json -d 'print JSON lines, also on a terminal'
complete -c gm-status -l table -d 'print a table, also into a pipe'
complete -c gm-status -l quarantine -r -F -d 'the quarantine file'
complete -c gm-status -s s -l server -x -d 'the servers'
complete -c gm-status -s h -l help -d 'show this'
complete -c gm-status -l version -d 'show the version'

complete -c gm-submit -f
complete -c gm-submit -s 0 -l null -d 'payloads end in NUL'
complete -c gm-submit -s u -l unique -x -d 'unique of the only job'
complete -c gm-submit -l unique-data -d 'uniques are digests of the payload'
complete -c gm-submit -l priority -x -a 'high normal low' -d 'high, normal or low'
complete -c gm-submit -l wait -d 'wait for the results and print each as it comes; exit 1 if any failed'
complete -c gm-submit -l strict -d 'stop at the first bad line'
complete -c gm-submit -s s -l server -x -d 'the servers'
complete -c gm-submit -l json -d 'print records on a terminal, too'
complete -c gm-submit -s q -l quiet -d 'print no records'
complete -c gm-submit -s h -l help -d 'show this'
complete -c gm-submit -l version -d 'show the version'
complete -c gm-submit -n 'test (__gearmang_operands -u --unique --priority -s --server) -eq 0' -a '(__gearmang_ask FUNCTION)'
complete -c gm-submit -n 'test (__gearmang_operands -u --unique --priority -s --server) -ge 1' -F

complete -c gm-syslog -f
complete -c gm-syslog -l all -d 'send all events, not only failures'
complete -c gm-syslog -l tcp -d 'use TCP'
complete -c gm-syslog -s h -l help -d 'show this'
complete -c gm-syslog -l version -d 'show the version'

complete -c gm-tally -f
complete -c gm-tally -l every -x -d 'also print each TIME, by the events\' own times; each record is of the events since the last one'
complete -c gm-tally -l json -d 'print JSON lines, also on a terminal'
complete -c gm-tally -l table -d 'print histograms, also into a pipe'
complete -c gm-tally -s h -l help -d 'show this'
complete -c gm-tally -l version -d 'show the version'

complete -c gm-work -f
complete -c gm-work -s j -l jobs -x -d 'workers'
complete -c gm-work -s t -l timeout -x -d 'limit for one job (no limit)'
complete -c gm-work -l pipe -d 'start COMMAND once per worker, speak JSON lines with it'
complete -c gm-work -l until-empty -d 'exit when no server has a job now; delayed retries stay for the next gm-work'
complete -c gm-work -l max-age -x -d 'replace workers at about this age'
complete -c gm-work -l max-jobs -x -d 'replace workers after N jobs'
complete -c gm-work -l grace -x -d 'time from TERM to KILL'
complete -c gm-work -l tries -x -d 'attempts before quarantine'
complete -c gm-work -l delay -x -d 'delay before attempt 2, then doubling'
complete -c gm-work -l max-delay -x -d 'longest delay'
complete -c gm-work -l exit -x -d 'verdicts of exit statuses, such as 3=dead,4=drop'
complete -c gm-work -l brake -x -d 'when N different jobs failed in a row, hold failures and do not count them, until a job succeeds'
complete -c gm-work -l foreground -d 'clients wait for all jobs: answer, never retry'
complete -c gm-work -l via -x -a '(__gearmang_ask FUNCTION)' -d 'quarantine through a gm-collect on another machine'
complete -c gm-work -l quarantine -r -F -d 'the quarantine file'
complete -c gm-work -s s -l server -x -d 'the servers'
complete -c gm-work -s q -l quiet -d 'print no events'
complete -c gm-work -s h -l help -d 'show this'
complete -c gm-work -l version -d 'show the version'
complete -c gm-work -n 'test (__gearmang_operands -j --jobs -t --timeout --max-age --max-jobs --grace --tries --delay --max-delay --exit --brake --via --quarantine -s --server) -eq 0' -a '(__gearmang_ask FUNCTION)'
complete -c gm-work -n 'test (__gearmang_operands -j --jobs -t --timeout --max-age --max-jobs --grace --tries --delay --max-delay --exit --brake --via --quarantine -s --server) -ge 1' -a '(__gearmang_command (math (__gearmang_operands -j --jobs -t --timeout --max-age --max-jobs --grace --tries --delay --max-delay --exit --brake --via --quarantine -s --server) - 1))'
