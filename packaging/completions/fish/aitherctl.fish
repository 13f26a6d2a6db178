# fish completion for aitherctl(1)

# Names of models: those of the daemon if it runs, else those of the configuration files. It is never started for this.
function __aitherctl_models
    set -l scope --system
    set -l etc /etc/aither
    if contains -- --user (commandline -opc)
        set scope --user
        set etc (set -q XDG_CONFIG_HOME; and echo $XDG_CONFIG_HOME; or echo $HOME/.config)/aither
    end
    if busctl $scope status org.aitheros.Aither1 >/dev/null 2>&1
        timeout 2 aitherctl $scope --json list 2>/dev/null | grep -o '"name": "[^"]*"' | cut -d'"' -f4
    else
        for file in $etc/models.d/*.toml /usr/lib/aither/models.d/*.toml
            basename $file .toml
        end
    end
end

# Names of the model files that are shipped.
function __aitherctl_shipped
    set -l place /usr/share/aitherd/models.d
    set -q AITHER_SHIPPED_DIR; and set place $AITHER_SHIPPED_DIR
    for file in $place/*.toml
        basename $file .toml
    end
end

complete -c aitherctl -f
# commands:begin
complete -c aitherctl -s h -l help -d 'show this help message and exit'
complete -c aitherctl -l user -d 'the user\'s own daemon'
complete -c aitherctl -l system -d 'the system\'s daemon (default)'
complete -c aitherctl -s H -l host -x -d 'the daemon of another machine'
complete -c aitherctl -l json -d 'print JSON'
complete -c aitherctl -n __fish_use_subcommand -a list -d 'Lists the models and where they stand.'
complete -c aitherctl -n __fish_use_subcommand -a status -d 'Shows models in full; without a name, the devices and all models.'
complete -c aitherctl -n __fish_use_subcommand -a devices -d 'Shows who holds the memory of each device.'
complete -c aitherctl -n __fish_use_subcommand -a start -d 'Brings models in; they stop when they have been idle for their time.'
complete -c aitherctl -n __fish_use_subcommand -a hold -d 'Brings models in and keeps them until they are released or stopped.'
complete -c aitherctl -n __fish_use_subcommand -a release -d 'Ends the hold of models; they idle out as usual.'
complete -c aitherctl -n __fish_use_subcommand -a stop -d 'Drains models and stops them.'
complete -c aitherctl -n __fish_use_subcommand -a sleep -d 'Drains models and puts them to sleep: they are back quickly.'
complete -c aitherctl -n __fish_use_subcommand -a wake -d 'Wakes models that sleep.'
complete -c aitherctl -n __fish_use_subcommand -a run -d 'Asks a model and writes its answer; brings it in if need be.'
complete -c aitherctl -n __fish_use_subcommand -a lease -d 'Claims device memory for a program and makes room for it.'
complete -c aitherctl -n __fish_use_subcommand -a leases -d 'Lists the leases of device memory.'
complete -c aitherctl -n __fish_use_subcommand -a plan -d 'Shows what bringing a model in would do now. Changes nothing.'
complete -c aitherctl -n __fish_use_subcommand -a why -d 'Shows what happened to a model, or to all, and why.'
complete -c aitherctl -n __fish_use_subcommand -a logs -d 'Shows the journal of a model: its engine, its units, what aitherd did with it.'
complete -c aitherctl -n __fish_use_subcommand -a events -d 'Shows decisions and transitions as they happen, until interrupted.'
complete -c aitherctl -n __fish_use_subcommand -a top -d 'Shows devices, models and the last decisions, live.'
complete -c aitherctl -n __fish_use_subcommand -a upstreams -d 'Lists the servers outside of this machine and how they are.'
complete -c aitherctl -n __fish_use_subcommand -a route -d 'Explains where a request would go. Sends none.'
complete -c aitherctl -n __fish_use_subcommand -a enable -d 'Puts shipped model files in force: the whole fleet, or some models.'
complete -c aitherctl -n __fish_use_subcommand -a disable -d 'Takes model files out of force, and keeps them.'
complete -c aitherctl -n __fish_use_subcommand -a new -d 'Writes model files: from a template, a command, a running server, another tool.'
complete -c aitherctl -n __fish_use_subcommand -a doctor -d 'Looks for what would keep models from coming up.'
complete -c aitherctl -n __fish_use_subcommand -a check-config -d 'Checks the configuration on disk.'
complete -c aitherctl -n __fish_use_subcommand -a cat-config -d 'Prints the configuration files that count.'
complete -c aitherctl -n __fish_use_subcommand -a schema -d 'Prints the JSON Schema of a configuration file.'
complete -c aitherctl -n __fish_use_subcommand -a reload -d 'Has the daemon take over the configuration on disk.'
complete -c aitherctl -n __fish_use_subcommand -a version -d 'Prints the versions of this program and of the daemon.'
complete -c aitherctl -n '__fish_seen_subcommand_from status' -s n -l lines -x -d 'records to show (default: 10)'
complete -c aitherctl -n '__fish_seen_subcommand_from status' -a '(__aitherctl_models)'
complete -c aitherctl -n '__fish_seen_subcommand_from start' -l timeout -x -d 'give up waiting after this long (default: never)'
complete -c aitherctl -n '__fish_seen_subcommand_from start' -a '(__aitherctl_models)'
complete -c aitherctl -n '__fish_seen_subcommand_from hold' -l timeout -x -d 'give up waiting after this long (default: never)'
complete -c aitherctl -n '__fish_seen_subcommand_from hold' -a '(__aitherctl_models)'
complete -c aitherctl -n '__fish_seen_subcommand_from release' -l timeout -x -d 'give up waiting after this long (default: never)'
complete -c aitherctl -n '__fish_seen_subcommand_from release' -a '(__aitherctl_models)'
complete -c aitherctl -n '__fish_seen_subcommand_from stop' -l timeout -x -d 'give up waiting after this long (default: never)'
complete -c aitherctl -n '__fish_seen_subcommand_from stop' -l force -d 'do not wait for requests in flight'
complete -c aitherctl -n '__fish_seen_subcommand_from stop' -a '(__aitherctl_models)'
complete -c aitherctl -n '__fish_seen_subcommand_from sleep' -l timeout -x -d 'give up waiting after this long (default: never)'
complete -c aitherctl -n '__fish_seen_subcommand_from sleep' -l level -x -d 'how deep, as its engine numbers it (default: 1)'
complete -c aitherctl -n '__fish_seen_subcommand_from sleep' -a '(__aitherctl_models)'
complete -c aitherctl -n '__fish_seen_subcommand_from wake' -l timeout -x -d 'give up waiting after this long (default: never)'
complete -c aitherctl -n '__fish_seen_subcommand_from wake' -a '(__aitherctl_models)'
complete -c aitherctl -n '__fish_seen_subcommand_from run' -l image -r -F -d 'a picture to look at; may be repeated'
complete -c aitherctl -n '__fish_seen_subcommand_from run' -s o -l output -r -F -d 'have it draw, and write the picture there'
complete -c aitherctl -n '__fish_seen_subcommand_from run' -l max-tokens -x -d 'end the answer after so many tokens'
complete -c aitherctl -n '__fish_seen_subcommand_from run' -a '(__aitherctl_models)'
complete -c aitherctl -n '__fish_seen_subcommand_from lease' -l vram -x -d 'how much, as in 8G or 5.2GiB'
complete -c aitherctl -n '__fish_seen_subcommand_from lease' -l device -x -d 'on which device, as in gpu0 (default: any)'
complete -c aitherctl -n '__fish_seen_subcommand_from lease' -l for -x -d 'end after this long, as in 2h (default: never)'
complete -c aitherctl -n '__fish_seen_subcommand_from lease' -l purpose -x -d 'what for, as people see it (default: the command\'s name)'
complete -c aitherctl -n '__fish_seen_subcommand_from lease' -l timeout -x -d 'give up waiting after this long (default: never)'
complete -c aitherctl -n '__fish_seen_subcommand_from lease' -a '(__fish_complete_subcommand)'
complete -c aitherctl -n '__fish_seen_subcommand_from leases' -l release -x -d 'end a lease first; may be repeated'
complete -c aitherctl -n '__fish_seen_subcommand_from plan' -a '(__aitherctl_models)'
complete -c aitherctl -n '__fish_seen_subcommand_from why' -s n -l lines -x -d 'records to show (default: 30)'
complete -c aitherctl -n '__fish_seen_subcommand_from why' -a '(__aitherctl_models)'
complete -c aitherctl -n '__fish_seen_subcommand_from logs' -s f -l follow -d 'go on as lines come'
complete -c aitherctl -n '__fish_seen_subcommand_from logs' -s n -l lines -x -d 'show only the last lines'
complete -c aitherctl -n '__fish_seen_subcommand_from logs' -a '(__aitherctl_models)'
complete -c aitherctl -n '__fish_seen_subcommand_from events' -a '(__aitherctl_models)'
complete -c aitherctl -n '__fish_seen_subcommand_from top' -l interval -x -d 'between looks (default: 1)'
complete -c aitherctl -n '__fish_seen_subcommand_from top' -l once -d 'show it once, without taking the screen'
complete -c aitherctl -n '__fish_seen_subcommand_from route' -l tier -x -d 'as X-Aither-Tier would say it'
complete -c aitherctl -n '__fish_seen_subcommand_from route' -l effort -x -d 'as reasoning_effort would say it'
complete -c aitherctl -n '__fish_seen_subcommand_from route' -l local-only -d 'as X-Aither-Local: only would say it'
complete -c aitherctl -n '__fish_seen_subcommand_from route' -l needs -x -d 'what it asks for, as in vision; may be repeated'
complete -c aitherctl -n '__fish_seen_subcommand_from route' -a '(__aitherctl_models)'
complete -c aitherctl -n '__fish_seen_subcommand_from enable' -l all -d 'every shipped model'
complete -c aitherctl -n '__fish_seen_subcommand_from enable' -l no-reload -d 'tell neither systemd nor the daemon'
complete -c aitherctl -n '__fish_seen_subcommand_from enable' -a '(__aitherctl_shipped)'
complete -c aitherctl -n '__fish_seen_subcommand_from disable' -l no-reload -d 'tell neither systemd nor the daemon'
complete -c aitherctl -n '__fish_seen_subcommand_from disable' -a '(__aitherctl_models)'
complete -c aitherctl -n '__fish_seen_subcommand_from new' -l engine -x -d 'a template for this kind of server'
complete -c aitherctl -n '__fish_seen_subcommand_from new' -l command -x -d 'a command line as in a shell'
complete -c aitherctl -n '__fish_seen_subcommand_from new' -l pid -x -d 'a server that runs: its command, and what it holds'
complete -c aitherctl -n '__fish_seen_subcommand_from new' -l from -r -F -d 'YAML of llama-swap or Docker Compose, or ollama for the models in its store'
complete -c aitherctl -n '__fish_seen_subcommand_from new' -l vram -x -d 'device memory that it needs, as in 5.2GiB'
complete -c aitherctl -n '__fish_seen_subcommand_from new' -l print -d 'print the files and save nothing'
complete -c aitherctl -n '__fish_seen_subcommand_from new' -l no-reload -d 'tell neither systemd nor the daemon'
complete -c aitherctl -n '__fish_seen_subcommand_from doctor' -a '(__aitherctl_models)'
complete -c aitherctl -n '__fish_seen_subcommand_from check-config' -l device -x -d 'assume a device, as in gpu0=32606MiB'
complete -c aitherctl -n '__fish_seen_subcommand_from check-config' -a '(__fish_complete_directories)'
complete -c aitherctl -n '__fish_seen_subcommand_from cat-config' -a '(__fish_complete_directories)'
complete -c aitherctl -n '__fish_seen_subcommand_from schema' -a 'model settings'
# commands:end
