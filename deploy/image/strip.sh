# Makes a base fit to run Keypost: no compiler, nothing that installs packages of Python, a name for the user.
set -eu

for compiler in cc gcc clang tcc ld as make; do
  if command -v "$compiler" >/dev/null; then
    echo "the base image has a compiler ($compiler): take one without, such as python:3.11-slim" >&2
    exit 1
  fi
done

python3 -c 'import site, sys, sysconfig; print(*{*site.getsitepackages(), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), *sys.path[1:]}, sep="\n")' |
  while read -r folder; do
    for name in pip setuptools wheel pkg_resources _distutils_hack ensurepip; do
      rm -rf "$folder/$name" "$folder/$name"-*.dist-info "$folder/$name"-*.egg-info
    done
    rm -f "$folder/distutils-precedence.pth"
  done
for folder in /usr/local/bin /usr/bin; do
  rm -f "$folder"/pip "$folder"/pip3* "$folder"/wheel "$folder"/easy_install*
done
rm -rf /usr/share/python-wheels

# Where compose.yaml mounts a volume for each part: a new volume takes the owner of the folder that it is mounted upon.
for part in root administrator ca directory delivery migrations postgres cache mailboxes limits; do
  install -d -m 0750 -o 10001 -g 10001 "/provision/$part"
done

echo 'keypost:x:10001:10001:Keypost:/nonexistent:/usr/sbin/nologin' >>/etc/passwd
echo 'keypost:x:10001:' >>/etc/group
